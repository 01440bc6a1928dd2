#!/usr/bin/env python3
"""Makes the reference's fixtures: what Hugging Face transformers computes for a tiny model of each family.

    python3 -m venv venv && venv/bin/pip install numpy torch transformers
    venv/bin/python scripts/peers/make_fixtures.py [--out reference/testdata]

Each family becomes one JSON file. Its weights are not stored: they are a function of seed, tensor name and
index (twin/seeded.py), so the file holds their names, shapes and scales only. Stored are our model
configuration, ragged source and target ids, and the outputs in float32 with eager attention on the CPU: the
encoder's and the teacher-forced logits, each sequence computed alone and unpadded, one after the other.

The shapes are awkward on purpose: nothing is a multiple of 64, vocabularies are odd, T5's heads * d_kv is not
d_model. Head widths are multiples of 8, which the CUDA engine's attention asks for.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from fixture_files import MADE_BY, digits, write
from twin import seeded

ROOT = Path(__file__).resolve().parents[2]

SEED = 20260101
SOURCE_LENGTHS = [19, 7, 1, 30]
TARGET_LENGTHS = [9, 24, 1, 5]


@dataclass
class Family:
    """One tiny model: its transformers class and configuration, and the same in our words."""

    model: type
    hf: transformers.PreTrainedConfig
    config: dict[str, Any]
    t5: bool = False
    tied: bool = True
    fixed: list[str] = field(
        default_factory=list
    )  # tensors that are computed, not learned


@dataclass
class Tensor:
    """One of our tensors and the transformers parameter that takes its values."""

    name: str
    hf: str
    deviation: float
    base: float = 0.0

    @property
    def exponent(self) -> int:
        """Power of two nearest to the deviation asked for."""
        return round(math.log2(self.deviation / seeded.CENTRED_SUM_STD))


def t5_config(name: str, gated: bool) -> Family:
    """T5: rms, pre, relative positions, no bias, unscaled scores; v1.1 gated with a head of its own."""
    vocab, d_model, d_kv, heads, d_ff = (
        (101, 40, 16, 3, 70) if gated else (99, 24, 8, 6, 50)
    )
    hf = transformers.T5Config(
        vocab_size=vocab,
        d_model=d_model,
        d_kv=d_kv,
        num_heads=heads,
        d_ff=d_ff,
        num_layers=2,
        num_decoder_layers=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
    )
    config = {
        "name": name,
        "d_model": d_model,
        "head_dim": d_kv,
        "vocab": vocab,
        "encoder": {"layers": 2, "heads": heads, "d_ff": d_ff},
        "decoder": {"layers": 3, "heads": heads, "d_ff": d_ff},
        "norm": "rms",
        "placement": "pre",
        "final_norm": True,
        "norm_eps": 1e-6,
        "position": "relative",
        "relative_buckets": 8,
        "relative_max_distance": 20,
        "activation": "gelu_tanh" if gated else "relu",
        "gated": gated,
        "bias": False,
        "attention_scale": 1.0,
        "head_scale": 1.0 if gated else d_model**-0.5,
        "tied_head": not gated,
        "pad_id": 0,
        "eos_id": 1,
        "decoder_start_id": 0,
    }
    return Family(
        transformers.T5ForConditionalGeneration, hf, config, t5=True, tied=not gated
    )


def bart_like(
    name: str, hf: transformers.PreTrainedConfig, model: type, **words: Any
) -> Family:
    """What BART, Marian and M2M100 share: separate biases, one shared embedding that is also the head."""
    head_dim = hf.d_model // hf.encoder_attention_heads
    config = {
        "name": name,
        "d_model": hf.d_model,
        "head_dim": head_dim,
        "vocab": hf.vocab_size,
        "encoder": {
            "layers": hf.encoder_layers,
            "heads": hf.encoder_attention_heads,
            "d_ff": hf.encoder_ffn_dim,
        },
        "decoder": {
            "layers": hf.decoder_layers,
            "heads": hf.decoder_attention_heads,
            "d_ff": hf.decoder_ffn_dim,
        },
        "norm": "layer",
        "norm_eps": 1e-5,
        "max_positions": hf.max_position_embeddings,
        "bias": True,
        "attention_scale": head_dim**-0.5,
        "embedding_scale": math.sqrt(hf.d_model) if hf.scale_embedding else 1.0,
        "pad_id": hf.pad_token_id,
        "eos_id": hf.eos_token_id,
        "decoder_start_id": hf.decoder_start_token_id,
        **words,
    }
    learned = config["position"] == "learned"
    fixed = (
        [] if learned else [f"model.{side}.embed_positions.weight" for side in SIDES]
    )
    return Family(model, hf, config, fixed=fixed)


SIDES = ("encoder", "decoder")


def families() -> dict[str, Family]:
    """The five families by the name of their fixture."""
    shape = {"encoder_layers": 2, "decoder_layers": 3, "max_position_embeddings": 40}
    return {
        "t5": t5_config("t5", gated=False),
        "t5_gated": t5_config("t5_gated", gated=True),
        "bart": bart_like(
            "bart",
            transformers.BartConfig(
                vocab_size=83,
                d_model=56,
                encoder_attention_heads=7,
                decoder_attention_heads=7,
                encoder_ffn_dim=66,
                decoder_ffn_dim=45,
                activation_function="gelu",
                scale_embedding=False,
                pad_token_id=1,
                bos_token_id=0,
                eos_token_id=2,
                decoder_start_token_id=2,
                **shape,
            ),
            transformers.BartForConditionalGeneration,
            placement="post",
            position="learned",
            position_offset=2,
            embedding_norm=True,
            activation="gelu",
            head_bias=True,
        ),
        "marian": bart_like(
            "marian",
            transformers.MarianConfig(
                vocab_size=91,
                d_model=24,
                encoder_attention_heads=3,
                decoder_attention_heads=3,
                encoder_ffn_dim=50,
                decoder_ffn_dim=70,
                activation_function="swish",
                scale_embedding=True,
                pad_token_id=90,
                eos_token_id=0,
                decoder_start_token_id=90,
                forced_eos_token_id=0,
                **shape,
            ),
            transformers.MarianMTModel,
            placement="post",
            position="sinusoidal_halves",
            activation="silu",
            head_bias=True,
        ),
        "m2m100": bart_like(
            "m2m100",
            transformers.M2M100Config(
                vocab_size=97,
                d_model=40,
                encoder_attention_heads=5,
                decoder_attention_heads=5,
                encoder_ffn_dim=75,
                decoder_ffn_dim=90,
                activation_function="relu",
                scale_embedding=True,
                pad_token_id=1,
                bos_token_id=0,
                eos_token_id=2,
                decoder_start_token_id=2,
                encoder_layerdrop=0.0,
                decoder_layerdrop=0.0,
                **shape,
            ),
            transformers.M2M100ForConditionalGeneration,
            placement="pre",
            final_norm=True,
            position="sinusoidal_halves",
            position_offset=2,
            sinusoid_spans_end=True,
            activation="relu",
            head_bias=False,
        ),
    }


def t5_tensors(f: Family) -> Iterator[Tensor]:
    """All tensors of a T5."""
    d, inner = f.hf.d_model, f.hf.num_heads * f.hf.d_kv
    # Scores are not scaled, so that queries are small instead.
    deviations = {
        "q": 1.5 / math.sqrt(d * f.hf.d_kv),
        "k": d**-0.5,
        "v": d**-0.5,
        "out": inner**-0.5,
    }
    yield Tensor("shared.embedding", "shared.weight", 1.0)
    if not f.tied:
        yield Tensor("head.weight", "lm_head.weight", d**-0.5)
    for side, layers in (
        ("encoder", f.hf.num_layers),
        ("decoder", f.hf.num_decoder_layers),
    ):
        first = f"{side}.block.0.layer.0.SelfAttention"
        yield Tensor(
            f"{side}.relative_bias", f"{first}.relative_attention_bias.weight", 1.0
        )
        yield Tensor(
            f"{side}.final_norm.gamma", f"{side}.final_layer_norm.weight", 0.1, 1.0
        )
        attentions = [("self", "SelfAttention"), ("cross", "EncDecAttention")][
            : 1 + (side == "decoder")
        ]
        for i in range(layers):
            ours, block = f"{side}.layers.{i}", f"{side}.block.{i}.layer"
            for j, (ours_name, hf_name) in enumerate(attentions):
                yield Tensor(
                    f"{ours}.{ours_name}_norm.gamma",
                    f"{block}.{j}.layer_norm.weight",
                    0.1,
                    1.0,
                )
                attention = f"{block}.{j}.{hf_name}"
                for part, hf_part in zip(
                    ("q", "k", "v", "out"), ("q", "k", "v", "o"), strict=True
                ):
                    weight = f"{ours}.{ours_name}.{part}.weight"
                    yield Tensor(
                        weight, f"{attention}.{hf_part}.weight", deviations[part]
                    )
            last = len(attentions)
            yield Tensor(
                f"{ours}.ffn_norm.gamma", f"{block}.{last}.layer_norm.weight", 0.1, 1.0
            )
            ups = [("gate", "wi_0"), ("up", "wi_1")] if not f.tied else [("up", "wi")]
            ffn = f"{block}.{last}.DenseReluDense"
            for part, hf_part in ups:
                yield Tensor(
                    f"{ours}.ffn.{part}.weight", f"{ffn}.{hf_part}.weight", d**-0.5
                )
            yield Tensor(f"{ours}.ffn.down.weight", f"{ffn}.wo.weight", f.hf.d_ff**-0.5)


def norm(ours: str, hf: str) -> Iterator[Tensor]:
    """Gamma around 1 and beta around 0."""
    yield Tensor(f"{ours}.gamma", f"{hf}.weight", 0.1, 1.0)
    yield Tensor(f"{ours}.beta", f"{hf}.bias", 0.1)


def dense(ours: str, hf: str, fan_in: int) -> Iterator[Tensor]:
    """Weight and bias of a projection."""
    yield Tensor(f"{ours}.weight", f"{hf}.weight", 1.5 * fan_in**-0.5)
    yield Tensor(f"{ours}.bias", f"{hf}.bias", 0.1)


def bart_tensors(f: Family) -> Iterator[Tensor]:
    """All tensors of a BART, Marian or M2M100."""
    d = f.hf.d_model
    yield Tensor(
        "shared.embedding", "model.shared.weight", 1.0 / f.config["embedding_scale"]
    )
    if f.config["head_bias"]:
        yield Tensor("head.bias", "final_logits_bias", 0.25)
    for side in SIDES:
        if f.config["position"] == "learned":
            yield Tensor(
                f"{side}.position", f"model.{side}.embed_positions.weight", 0.5
            )
        if f.config.get("embedding_norm"):
            yield from norm(
                f"{side}.embedding_norm", f"model.{side}.layernorm_embedding"
            )
        if f.config.get("final_norm"):
            yield from norm(f"{side}.final_norm", f"model.{side}.layer_norm")
        attentions = [("self", "self_attn"), ("cross", "encoder_attn")][
            : 1 + (side == "decoder")
        ]
        for i in range(f.config[side]["layers"]):
            ours, layer = f"{side}.layers.{i}", f"model.{side}.layers.{i}"
            for ours_name, hf_name in attentions:
                yield from norm(
                    f"{ours}.{ours_name}_norm", f"{layer}.{hf_name}_layer_norm"
                )
                for part in ("q", "k", "v", "out"):
                    yield from dense(
                        f"{ours}.{ours_name}.{part}",
                        f"{layer}.{hf_name}.{part}_proj",
                        d,
                    )
            yield from norm(f"{ours}.ffn_norm", f"{layer}.final_layer_norm")
            yield from dense(f"{ours}.ffn.up", f"{layer}.fc1", d)
            yield from dense(f"{ours}.ffn.down", f"{layer}.fc2", f.config[side]["d_ff"])


def set_weights(f: Family, model: torch.nn.Module) -> list[list[Any]]:
    """Fills the model from the seed. Returns our tensors; fails when any parameter was left as it was."""
    if not f.tied:  # transformers 5 ties even T5 v1.1 until a checkpoint says otherwise
        model.lm_head.weight = torch.nn.Parameter(
            torch.zeros_like(model.lm_head.weight)
        )
    slots = dict(model.named_parameters()) | dict(model.named_buffers())
    written = []
    for tensor in t5_tensors(f) if f.t5 else bart_tensors(f):
        slot = slots.pop(tensor.hf)
        shape = tuple(slot.shape)
        values = seeded.seeded_tensor(
            SEED, tensor.name, shape, base=tensor.base, exponent=tensor.exponent
        )
        with torch.no_grad():
            slot.copy_(torch.from_numpy(values))
        rows, cols = (1, *shape)[-2:]
        written.append([tensor.name, rows, cols, tensor.base, tensor.exponent])
    left = [
        n
        for n in slots
        if n not in f.fixed and not n.endswith("embed_positions.weights")
    ]
    if left:
        raise SystemExit(
            f"{f.config['name']}: parameters without a tensor of ours: {left}"
        )
    return written


def ids(f: Family, name: str, lengths: list[int]) -> list[list[int]]:
    """Seeded ids for each length, never pad, eos or the decoder's start."""
    special = {f.config["pad_id"], f.config["eos_id"], f.config["decoder_start_id"]}
    allowed = [i for i in range(f.config["vocab"]) if i not in special]
    draws = seeded.uniform_below(
        seeded.stream_key(SEED, name),
        np.arange(sum(lengths), dtype=np.uint64),
        len(allowed),
    )
    sequences = np.split(np.array(allowed)[draws], np.cumsum(lengths)[:-1])
    return [s.tolist() for s in sequences]


def make(f: Family) -> dict[str, Any]:
    """The fixture of one family."""
    torch.manual_seed(0)
    model = f.model._from_config(f.hf, attn_implementation="eager").eval().float()
    tensors = set_weights(f, model)
    sources = ids(f, "source", SOURCE_LENGTHS)
    targets = ids(f, "target", TARGET_LENGTHS)
    for target in targets:
        target[0] = f.config["decoder_start_id"]
    encoded, logits = [], []
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            source_ids, target_ids = torch.tensor([source]), torch.tensor([target])
            out = model(
                input_ids=source_ids, decoder_input_ids=target_ids, use_cache=False
            )
            encoded += digits(out.encoder_last_hidden_state)
            logits += digits(out.logits)
    return {
        "made_by": MADE_BY,
        "config": f.config,
        "seed": SEED,
        "tensors": tensors,
        "source_ids": sources,
        "target_ids": targets,
        "encoder_output": encoded,
        "logits": logits,
    }


def main() -> None:
    """Writes the fixtures."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, default=ROOT / "reference" / "testdata")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name, family in families().items():
        fixture = make(family)
        write(args.out / f"{name}.json", fixture)
        spread = np.array(fixture["logits"]).reshape(-1, family.config["vocab"]).std()
        print(
            f"{name}: {len(fixture['tensors'])} tensors, logits' deviation {spread:.2f}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
