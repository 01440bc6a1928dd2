"""Which family of transformers computes a model of ours, and under which names: no torch needed.

The twin of harness/model/hugging_face.cc, the other way round: from our configuration to theirs.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from twin.model import Model, Stack

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "silu": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
# model_type of the families, and the class that generates.
CLASSES = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "marian": "MarianMTModel",
    "m2m_100": "M2M100ForConditionalGeneration",
}


class UnsupportedError(Exception):
    """A case that this engine does not compute; the text names the field."""


def need(ok: bool, family: str, what: str) -> None:
    """Raises UnsupportedError unless `ok`."""
    if not ok:
        raise UnsupportedError(f"model: transformers' {family} has no {what}")


def family_of(m: Model) -> str:
    """The family whose code computes `m`. Raises UnsupportedError naming the field."""
    post = m.placement == "post"
    if m.position == "relative":
        family = "t5"
    elif m.position == "learned":
        family = "bart" if post else "mbart"
    elif m.position in ("sinusoidal", "sinusoidal_halves"):
        family = "marian" if post else "m2m_100"
    else:
        raise UnsupportedError(f"model: position: no family has '{m.position}'")
    e, d = m.encoder, m.decoder
    need(
        d.layers <= e.layers,
        family,
        "static cache for more decoder layers than the encoder has",
    )
    need(m.shared_embeddings, family, "two embedding tables here")
    if family == "t5":
        need(
            m.norm == "rms" and not post and m.final_norm,
            family,
            "other norm or placement",
        )
        need(
            not m.embedding_norm and not m.bias and not m.head_bias,
            family,
            "embedding norm or bias",
        )
        need((e.heads, e.d_ff) == (d.heads, d.d_ff), family, "sides of two widths")
        need(
            m.attention_scale == 1 and m.embedding_scale == 1,
            family,
            "scaled scores or embeddings",
        )
        scaled = math.isclose(m.head_scale, m.d_model**-0.5, rel_tol=1e-6)
        need(m.head_scale == 1 or scaled, family, f"head_scale {m.head_scale}")
        return family
    need(
        m.norm == "layer" and m.norm_eps == 1e-5,
        family,
        "norm but layer with norm_eps 1e-5",
    )
    need(m.bias and not m.gated, family, "projections without bias, or gates")
    for side in (e, d):
        need(
            side.heads * m.head_dim == m.d_model,
            family,
            "heads * head_dim that is not d_model",
        )
    scaled = math.isclose(m.embedding_scale, math.sqrt(m.d_model), rel_tol=1e-6)
    need(
        m.embedding_scale == 1 or scaled, family, f"embedding_scale {m.embedding_scale}"
    )
    need(
        math.isclose(m.attention_scale, m.head_dim**-0.5, rel_tol=1e-6),
        family,
        "own attention_scale",
    )
    need(m.head_scale == 1, family, "head_scale")
    need(m.final_norm != post, family, "final_norm with this placement")
    learned = m.position == "learned"
    need(m.embedding_norm == learned, family, "embedding_norm with these positions")
    if learned:
        need(m.position_offset == 2, family, "position_offset but 2")
    if family == "m2m_100":
        need(m.position == "sinusoidal_halves", family, "interleaved sinusoids")
        need(m.sinusoid_spans_end, family, "sinusoids but fairseq's")
        need(
            m.position_offset == m.pad_id + 1 == 2,
            family,
            "position_offset but pad_id + 1 = 2",
        )
        need(not m.head_bias, family, "head_bias")
    return family


def config_values(family: str, m: Model) -> dict[str, Any]:
    """Arguments of the family's configuration class. The original Transformer is a Marian whose table of positions
    is overwritten; BART and Marian add a bias of zeros to the logits where `m` has none.
    """
    ids = {
        "pad_token_id": m.pad_id,
        "eos_token_id": m.eos_id,
        "decoder_start_token_id": m.decoder_start_id,
    }
    activation = ACTIVATIONS[m.activation]
    if family == "t5":
        tanh = m.activation == "gelu_tanh"
        return {
            **ids,
            "vocab_size": m.vocab,
            "d_model": m.d_model,
            "d_kv": m.head_dim,
            "num_heads": m.encoder.heads,
            "d_ff": m.encoder.d_ff,
            "num_layers": m.encoder.layers,
            "num_decoder_layers": m.decoder.layers,
            "relative_attention_num_buckets": m.relative_buckets,
            "relative_attention_max_distance": m.relative_max_distance,
            "layer_norm_epsilon": m.norm_eps,
            "feed_forward_proj": ("gated-" if m.gated else "")
            + ("gelu" if tanh and m.gated else activation),
            # Read as "does the head scale its input?" (T5 v1.0 does).
            "tie_word_embeddings": m.head_scale != 1,
        }
    return {
        **ids,
        "vocab_size": m.vocab,
        "d_model": m.d_model,
        "encoder_layers": m.encoder.layers,
        "decoder_layers": m.decoder.layers,
        "encoder_attention_heads": m.encoder.heads,
        "decoder_attention_heads": m.decoder.heads,
        "encoder_ffn_dim": m.encoder.d_ff,
        "decoder_ffn_dim": m.decoder.d_ff,
        "activation_function": activation,
        "scale_embedding": m.embedding_scale != 1,
        "max_position_embeddings": m.max_positions,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "forced_eos_token_id": None,
    }


T5_SUBLAYER = {
    "self": "SelfAttention",
    "cross": "EncDecAttention",
    "ffn": "DenseReluDense",
}
BART_SUBLAYER = {"self": "self_attn", "cross": "encoder_attn"}
BART_NORM = {**BART_SUBLAYER, "ffn": "final"}


def t5_name(side: str, rest: list[str], gated: bool) -> str:
    """Of a tensor of one side."""
    if rest[0] == "relative_bias":
        return f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    if rest[0] == "final_norm":
        return f"{side}.final_layer_norm.weight"
    _, layer, part, *end = rest
    order = ["self", "ffn"] if side == "encoder" else ["self", "cross", "ffn"]
    sublayer = f"{side}.block.{layer}.layer.{order.index(part.removesuffix('_norm'))}"
    if part.endswith("_norm"):
        return f"{sublayer}.layer_norm.weight"
    projection = {
        "out": "o",
        "gate": "wi_0",
        "up": "wi_1" if gated else "wi",
        "down": "wo",
    }
    return f"{sublayer}.{T5_SUBLAYER[part]}.{projection.get(end[0], end[0])}.weight"


def bart_name(side: str, rest: list[str]) -> str:
    """Of a tensor of one side; also Marian's and M2M100's."""
    ending = {"gamma": "weight", "beta": "bias"}.get(rest[-1], rest[-1])
    front = f"model.{side}"
    if rest[0] == "position":
        return f"{front}.embed_positions.weight"
    if rest[0] == "embedding_norm":
        return f"{front}.layernorm_embedding.{ending}"
    if rest[0] == "final_norm":
        return f"{front}.layer_norm.{ending}"
    _, layer, part, *end = rest
    front = f"{front}.layers.{layer}"
    if part.endswith("_norm"):
        return f"{front}.{BART_NORM[part.removesuffix('_norm')]}_layer_norm.{ending}"
    if part == "ffn":
        return f"{front}.{'fc1' if end[0] == 'up' else 'fc2'}.{ending}"
    return f"{front}.{BART_SUBLAYER[part]}.{end[0]}_proj.{ending}"


def hf_name(family: str, name: str, gated: bool) -> str:
    """The transformers parameter that takes the values of our tensor `name`."""
    side, *rest = name.split(".")
    if side == "shared":
        return "shared.weight" if family == "t5" else "model.shared.weight"
    if side == "head":
        return "lm_head.weight" if rest[0] == "weight" else "final_logits_bias"
    return t5_name(side, rest, gated) if family == "t5" else bart_name(side, rest)


def checkpoint_model(folder: Path) -> Model:
    """What the inputs of a case need of a checkpoint folder: family as name, vocab, layers and special ids."""
    config = json.loads((folder / "config.json").read_text())
    family = config.get("model_type")
    if family not in CLASSES:
        raise UnsupportedError(
            f"model: model_type '{family}' is not one of {' '.join(CLASSES)}"
        )
    path = folder / "generation_config.json"
    ids = {**config, **(json.loads(path.read_text()) if path.exists() else {})}

    def token(key: str, otherwise: int) -> int:
        value = ids.get(key)
        if value is None:
            value = config.get(key)
        if isinstance(value, list):
            value = value[0]
        return otherwise if value is None else int(value)

    def stack(side: str) -> dict[str, int]:
        if family in ("t5", "mt5"):
            layers = config["num_layers"]
            own = config.get("num_decoder_layers") if side == "decoder" else None
            return {"layers": layers if own is None else own}
        return {"layers": config[f"{side}_layers"]}

    pad = token("pad_token_id", 0)
    return Model(
        name=family,
        d_model=config["d_model"],
        vocab=config["vocab_size"],
        encoder=Stack(**stack("encoder")),
        decoder=Stack(**stack("decoder")),
        pad_id=pad,
        eos_id=token("eos_token_id", 1),
        decoder_start_id=token("decoder_start_token_id", pad),
    )
