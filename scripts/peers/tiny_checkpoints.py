"""Tiny checkpoints of every family, written as published ones are written.

Shapes are awkward and values are a function of seed, tensor name and index (twin/seeded.py), so that a
folder can be made again from its list of tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from twin import seeded

ROOT = Path(__file__).resolve().parents[2]

SEED = 20260102
MAX_SOURCE = 200
# Transformers 5.23 sizes the decoder cache by the encoder, so that fewer layers there work and more do not.
ENCODER_LAYERS, DECODER_LAYERS = 3, 2
SINUSOID = "sinusoid"  # the stream of tables that are computed
TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass
class Variant:
    """One checkpoint: a transformers configuration, and how its folder is written."""

    config: transformers.PreTrainedConfig
    generation: dict[str, Any]
    dtype: str = "F32"
    files: int = 1
    untied: bool = False  # a head of its own
    duplicates: bool = False  # every tied table under all its names
    extra: tuple[
        str, ...
    ] = ()  # tensors that published checkpoints carry and nobody reads
    config_edits: dict[str, Any] = field(default_factory=dict)
    max_source: int = MAX_SOURCE


def bart_shape(
    d_model: int, heads: int, ffn: tuple[int, int], vocab: int, **more: Any
) -> dict[str, Any]:
    """The sizes that BART, mBART, Marian and M2M100 spell alike."""
    return {
        "vocab_size": vocab,
        "d_model": d_model,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ffn[0],
        "decoder_ffn_dim": ffn[1],
        "encoder_layers": ENCODER_LAYERS,
        "decoder_layers": DECODER_LAYERS,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        **more,
    }


def t5_shape(
    d_model: int, d_kv: int, heads: int, d_ff: int, vocab: int, **more: Any
) -> dict[str, Any]:
    """The sizes of T5 and mT5."""
    return {
        "vocab_size": vocab,
        "d_model": d_model,
        "d_kv": d_kv,
        "num_heads": heads,
        "d_ff": d_ff,
        "num_layers": ENCODER_LAYERS,
        "num_decoder_layers": DECODER_LAYERS,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
        **more,
    }


def variants() -> dict[str, Variant]:
    """The eight variants by name.

    Awkward on purpose: multiples of 8 and of nothing more, odd vocabularies, T5's heads * d_kv is not d_model.
    Where the usual end-of-sequence would hardly be generated, another id that is takes its place.
    """
    old_cross_bias = (
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    )
    t5_ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    bart_ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}

    def bart_ids_with(eos: int) -> dict[str, int]:
        return {**bart_ids, "eos_token_id": eos}

    as_published = {"tie_word_embeddings": False, "scale_decoder_outputs": None}
    tables = (
        "model.encoder.embed_positions.weight",
        "model.decoder.embed_positions.weight",
    )
    return {
        "t5": Variant(
            transformers.T5Config(
                **t5_shape(24, 8, 6, 56, 163),
                feed_forward_proj="relu",
                **{**t5_ids, "eos_token_id": 41},
            ),
            {**t5_ids, "eos_token_id": 41},
            extra=(old_cross_bias,),
        ),
        "t5_v1_1": Variant(
            transformers.T5Config(
                **t5_shape(40, 16, 3, 72, 151),
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            ),
            {**t5_ids, "repetition_penalty": 1.3, "early_stopping": True},
            dtype="BF16",
            files=2,
            untied=True,
            config_edits=as_published,
        ),
        "mt5": Variant(
            transformers.MT5Config(
                **t5_shape(32, 8, 5, 48, 239), feed_forward_proj="gated-gelu"
            ),
            {
                **t5_ids,
                "no_repeat_ngram_size": 3,
                "length_penalty": 0.6,
                "early_stopping": "never",
            },
            files=3,
            untied=True,
            config_edits=as_published,
        ),
        "bart": Variant(
            transformers.BartConfig(
                **bart_shape(40, 5, (72, 56), 149, max_position_embeddings=203),
                activation_function="gelu",
                scale_embedding=False,
                decoder_start_token_id=2,
                **bart_ids_with(22),
            ),
            {
                **bart_ids_with(22),
                "decoder_start_token_id": 2,
                "forced_bos_token_id": 0,
                "forced_eos_token_id": 22,
                "min_length": 12,
                "no_repeat_ngram_size": 3,
                "length_penalty": 2.0,
                "early_stopping": True,
            },
            dtype="F16",
            duplicates=True,
        ),
        "mbart": Variant(
            transformers.MBartConfig(
                **bart_shape(48, 2, (40, 72), 181, max_position_embeddings=201),
                activation_function="gelu",
                scale_embedding=True,
                **bart_ids_with(40),
            ),
            {
                **bart_ids_with(40),
                "decoder_start_token_id": 177,
                "forced_eos_token_id": 40,
                "repetition_penalty": 1.2,
            },
        ),
        "marian": Variant(
            transformers.MarianConfig(
                **bart_shape(32, 4, (56, 72), 127, max_position_embeddings=200),
                activation_function="swish",
                scale_embedding=True,
                pad_token_id=126,
                eos_token_id=48,
                decoder_start_token_id=126,
                forced_eos_token_id=48,
            ),
            {
                "pad_token_id": 126,
                "eos_token_id": 48,
                "decoder_start_token_id": 126,
                "forced_eos_token_id": 48,
                "bad_words_ids": [[126], [5, 9], [7]],
                "renormalize_logits": True,
                "no_repeat_ngram_size": 3,
                "length_penalty": 1.2,
            },
            dtype="F16",
            extra=tables,
        ),
        "m2m100": Variant(
            transformers.M2M100Config(
                **bart_shape(40, 5, (88, 72), 197, max_position_embeddings=200),
                activation_function="relu",
                scale_embedding=True,
                decoder_start_token_id=2,
                **bart_ids_with(71),
            ),
            {
                **bart_ids_with(71),
                "decoder_start_token_id": 2,
                "forced_bos_token_id": 190,
                "bad_words_ids": [[1]],
                "no_repeat_ngram_size": 3,
                "early_stopping": True,
            },
            files=2,
        ),
        "nllb": Variant(
            transformers.M2M100Config(
                **bart_shape(48, 3, (80, 56), 211, max_position_embeddings=200),
                activation_function="relu",
                scale_embedding=True,
                decoder_start_token_id=2,
                **bart_ids_with(66),
            ),
            {
                **bart_ids_with(66),
                "decoder_start_token_id": 2,
                "forced_bos_token_id": 203,
                "bad_words_ids": [[1]],
                "suppress_tokens": [11, 13],
                "length_penalty": -0.4,
                "early_stopping": "never",
            },
            dtype="BF16",
            duplicates=True,
        ),
    }


def scale(v: Variant, name: str, shape: tuple[int, ...]) -> tuple[float, int]:
    """Mean and power of two of a tensor's seeded values, so that outputs are diverse and sequences end."""
    config, untied = v.config, v.untied
    t5 = config.model_type in ("t5", "mt5")
    last = f"model.decoder.layers.{DECODER_LAYERS - 1}"
    base, deviation = 0.0, 0.1
    if "norm" in name:
        pre = {"t5", "mt5", "mbart", "m2m_100"}
        final = ("decoder.final_layer_norm.weight", "model.decoder.layer_norm.weight")
        if config.model_type not in pre:
            final = (f"{last}.final_layer_norm.weight",)
        if name.endswith("weight"):
            # A tied head likes its own input best; a sign turns that around.
            base = -1.5 if name in final and not untied else 1.0
    elif name in ("shared.weight", "model.shared.weight"):
        deviation = (
            1.0
            if t5
            else 1.0 / (config.d_model**0.5 if config.scale_embedding else 1.0)
        )
    elif name == "lm_head.weight":
        deviation = 3.0 * config.d_model**-0.5
    elif name == "final_logits_bias":
        deviation = 0.5
    elif "relative_attention_bias" in name:
        deviation = 1.0
    elif "embed_positions" in name:
        deviation = 0.5
    elif name.endswith("bias"):
        base = -0.5 if name.endswith("fc1.bias") else 0.0
    else:
        deviation = 1.5 * shape[-1] ** -0.5
        if t5 and name.endswith("Attention.q.weight"):
            deviation /= config.d_kv**0.5
    return base, round(np.log2(deviation / seeded.CENTRED_SUM_STD))


@dataclass
class Tensor:
    """One stored tensor; `stream` names its seeded values, which tied copies share."""

    file: str
    name: str
    shape: list[int]
    dtype: str
    stream: str
    base: float
    exponent: int


def tied_names(state: dict[str, torch.Tensor]) -> dict[str, str]:
    """Every tied name, and the one it stands for."""
    shared = next(name for name in state if name.endswith("shared.weight"))
    return {
        name: shared
        for name in state
        if name != shared
        and (name.endswith("embed_tokens.weight") or name == "lm_head.weight")
    }


def stored_tensors(v: Variant, state: dict[str, torch.Tensor]) -> Iterator[Tensor]:
    """What the folder holds, shared out over its files."""
    tied = tied_names(state)
    if v.untied:
        del tied["lm_head.weight"]
    names = [
        n
        for n in state
        if (n not in tied or v.duplicates) and "embed_positions.weights" not in n
    ]
    sinusoids = v.config.model_type in ("marian", "m2m_100")
    names = [n for n in names if not (sinusoids and "embed_positions" in n)]
    shapes = {n: list(state[n].shape) for n in names}
    for n in v.extra:
        shapes[n] = list(state[n].shape) if n in state else [8, 6]
    for i, name in enumerate(sorted(shapes)):
        number = i * v.files // len(shapes) + 1
        file = (
            "model.safetensors"
            if v.files == 1
            else f"model-{number:05}-of-{v.files:05}.safetensors"
        )
        if sinusoids and "embed_positions" in name:
            yield Tensor(file, name, shapes[name], "F32", SINUSOID, 0, 0)
            continue
        stream = tied.get(name, name)
        base, exponent = scale(v, stream, tuple(shapes[name]))
        yield Tensor(file, name, shapes[name], v.dtype, stream, base, exponent)


def write_checkpoint(folder: Path, v: Variant) -> list[Tensor]:
    """Writes the folder as its publisher would have."""
    folder.mkdir(parents=True, exist_ok=True)
    model = transformers.AutoModelForSeq2SeqLM.from_config(v.config)
    tensors = list(stored_tensors(v, model.state_dict()))
    files: dict[str, dict[str, torch.Tensor]] = {}
    for t in tensors:
        if t.stream == SINUSOID:
            values = model.state_dict()[t.name]
        else:
            shape = tuple(t.shape)
            filled = seeded.seeded_tensor(
                SEED, t.stream, shape, base=t.base, exponent=t.exponent
            )
            values = torch.from_numpy(filled)
        files.setdefault(t.file, {})[t.name] = values.to(
            TORCH_TYPES[t.dtype]
        ).contiguous()
    for file, content in files.items():
        save_file(content, str(folder / file), metadata={"format": "pt"})
    if v.files > 1:
        index = {"metadata": {}, "weight_map": {t.name: t.file for t in tensors}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    v.config.save_pretrained(folder)
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **v.config_edits}
    path.write_text(
        json.dumps({k: x for k, x in config.items() if x is not None}, indent=1)
    )
    (folder / "generation_config.json").write_text(json.dumps(v.generation, indent=1))
    return tensors
