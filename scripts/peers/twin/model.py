"""Tandem's models for engines in Python: presets, the seeded weights' layout, and the inputs of a case.

The twin of harness/model/{config.h,presets.cc,batch.cc}, harness/weights/{layout.cc,values/seed_scale.cc} and
harness/engine/engine.cc, for what a peer needs to compute the same numbers from the same seeds. Values: seeded.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin import seeded

INPUT_SEED = 1  # of source ids, lengths and decoder prefixes


@dataclass(frozen=True)
class Stack:
    """Sizes of one side."""

    layers: int = 6
    heads: int = 8
    d_ff: int = 2048


@dataclass(frozen=True)
class Model:
    """The fields of harness/model/config.h, by their names and words."""

    name: str = "custom"
    d_model: int = 512
    head_dim: int = 64
    encoder: Stack = field(default_factory=Stack)
    decoder: Stack = field(default_factory=Stack)
    vocab: int = 32000
    norm: str = "layer"
    placement: str = "post"
    final_norm: bool = False
    embedding_norm: bool = False
    norm_eps: float = 1e-5
    position: str = "sinusoidal"
    max_positions: int = 1024
    position_offset: int = 0
    sinusoid_spans_end: bool = False
    relative_buckets: int = 32
    relative_max_distance: int = 128
    activation: str = "relu"
    gated: bool = False
    bias: bool = True
    head_bias: bool = False
    attention_scale: float = 0.125
    embedding_scale: float = 1.0
    head_scale: float = 1.0
    shared_embeddings: bool = True
    tied_head: bool = True
    pad_id: int = 0
    eos_id: int = 1
    decoder_start_id: int = 0


def transformer(m: Model) -> Model:
    """Post-norm, relu, interleaved sinusoids."""
    return replace(m, embedding_scale=math.sqrt(m.d_model))


def marian(m: Model) -> Model:
    """Post-norm, swish, sinusoids in halves; pad is the last id and starts the decoder."""
    return replace(
        transformer(m),
        activation="silu",
        position="sinusoidal_halves",
        max_positions=512,
        head_bias=True,
        eos_id=0,
        pad_id=m.vocab - 1,
        decoder_start_id=m.vocab - 1,
    )


def bart(m: Model) -> Model:
    """Post-norm, gelu, learned positions."""
    return replace(
        m,
        activation="gelu",
        position="learned",
        position_offset=2,
        embedding_norm=True,
        head_bias=True,
        pad_id=1,
        eos_id=2,
        decoder_start_id=2,
    )


def t5(m: Model) -> Model:
    """T5 v1.0: rms, pre-norm, relative positions, unscaled scores, scaled tied head."""
    return replace(
        m,
        norm="rms",
        placement="pre",
        final_norm=True,
        norm_eps=1e-6,
        position="relative",
        bias=False,
        attention_scale=1.0,
        head_scale=1 / math.sqrt(m.d_model),
    )


def flan_t5(m: Model) -> Model:
    """T5 v1.1: gated, a head of its own."""
    return replace(
        t5(m), activation="gelu_tanh", gated=True, tied_head=False, head_scale=1.0
    )


def m2m100(m: Model) -> Model:
    """Pre-norm, relu, fairseq's sinusoids."""
    return replace(
        m,
        placement="pre",
        final_norm=True,
        position="sinusoidal_halves",
        position_offset=2,
        sinusoid_spans_end=True,
        embedding_scale=math.sqrt(m.d_model),
        pad_id=1,
        eos_id=2,
        decoder_start_id=2,
    )


# d_model, layers, heads, head_dim, d_ff, vocab
PRESETS = {
    "transformer-base": (transformer, (512, 6, 8, 64, 2048, 32000)),
    "transformer-big": (transformer, (1024, 6, 16, 64, 4096, 32000)),
    "marian-base": (marian, (512, 6, 8, 64, 2048, 58101)),
    "bart-base": (bart, (768, 6, 12, 64, 3072, 50265)),
    "bart-large": (bart, (1024, 12, 16, 64, 4096, 50265)),
    "t5-small": (t5, (512, 6, 8, 64, 2048, 32128)),
    "t5-base": (t5, (768, 12, 12, 64, 3072, 32128)),
    "t5-large": (t5, (1024, 24, 16, 64, 4096, 32128)),
    "t5-3b": (t5, (1024, 24, 32, 128, 16384, 32128)),
    "flan-t5-base": (flan_t5, (768, 12, 12, 64, 2048, 32128)),
    "flan-t5-xl": (flan_t5, (2048, 24, 32, 64, 5120, 32128)),
    "m2m100-418m": (m2m100, (1024, 12, 16, 64, 4096, 128112)),
    "nllb-600m": (m2m100, (1024, 12, 16, 64, 4096, 256206)),
    "nllb-1.3b": (m2m100, (1024, 24, 16, 64, 8192, 256206)),
    "nllb-3.3b": (m2m100, (2048, 24, 16, 128, 8192, 256206)),
    "tiny": (transformer, (64, 2, 4, 16, 128, 256)),
}


def preset(name: str) -> Model:
    """A preset by name. Raises ValueError for another one."""
    if name not in PRESETS:
        raise ValueError(f"model: '{name}' is not a preset ({' '.join(PRESETS)})")
    family, (d_model, layers, heads, head_dim, d_ff, vocab) = PRESETS[name]
    stack = Stack(layers, heads, d_ff)
    return family(
        Model(
            name=name,
            d_model=d_model,
            head_dim=head_dim,
            encoder=stack,
            decoder=stack,
            vocab=vocab,
            attention_scale=1 / math.sqrt(head_dim),
        )
    )


def model_from_json(values: dict[str, Any]) -> Model:
    """A model of our own words, as harness/model/config.cc reads it. Raises ValueError for an unknown field."""
    known = {f.name for f in fields(Model)}
    for key in values:
        if key not in known:
            raise ValueError(f"model: unknown field '{key}'")
    given = dict(values)
    for side in ("encoder", "decoder"):
        given[side] = Stack(**given.get(side, {}))
    given.setdefault("attention_scale", 1 / math.sqrt(given.get("head_dim", 64)))
    return Model(**given)


def load_model(spec: str) -> Model:
    """A preset or the path of a JSON file; not a checkpoint folder. Raises ValueError and OSError."""
    if "/" in spec or spec.endswith(".json"):
        return model_from_json(json.loads(Path(spec).read_text()))
    return preset(spec)


# Seeded weights: how large each tensor is (seed_scale.h says why).
LOGIT, SCORE, HIDDEN, THRESHOLD = 3.0, 1.0, 1.4, 0.6
BIAS_SHARE, ATTENTION_SHARE, ECHO, UNTIED_SHARE = 0.1, 0.3, 2.0, 0.25
GAMMA, BETA, RELATIVE_BIAS, HEAD_BIAS = 0.1, 0.1, 0.5, 0.25


def seed_exponent(deviation: float) -> int:
    """Power of two whose multiple of the generator's deviation is nearest to this one."""
    e = -40
    while (
        e < 40
        and seeded.CENTRED_SUM_STD * math.ldexp(1.0, e) * math.sqrt(2) < deviation
    ):
        e += 1
    return e


def seed_deviation(deviation: float) -> float:
    """What a tensor gets for a deviation asked for."""
    return seeded.CENTRED_SUM_STD * math.ldexp(1.0, seed_exponent(deviation))


def activate(activation: str, x: float) -> float:
    """The activation functions by their words."""
    if activation == "relu":
        return max(x, 0.0)
    if activation in ("gelu", "gelu_tanh"):
        return 0.5 * x * math.erfc(-x / math.sqrt(2))
    if activation == "silu":
        return x / (1 + math.exp(-x))
    return math.tanh(x) if activation == "tanh" else 1 / (1 + math.exp(-x))


def mean_square(activation: str, mean: float, deviation: float) -> float:
    """E[act(mean + deviation z)^2] for a normal z."""
    total = 0.0
    for i in range(-512, 513):
        z = i / 64
        y = activate(activation, mean + deviation * z)
        total += math.exp(-z * z / 2) * y * y / 64
    return total / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Dense:
    """Deviations of one projection's weight and bias, and the mean of its bias."""

    weight: float
    bias: float
    bias_mean: float = 0.0


class Stream:
    """One side's residual stream: its size at the start and what each sublayer adds relative to it."""

    def __init__(self, m: Model, stack: Stack, attentions: int, embedding: float):
        self.m, self.stack, self.attentions = m, stack, attentions
        token = seed_deviation(embedding) * m.embedding_scale
        position = 0.0
        if m.position == "learned":
            position = seed_deviation(token / 3)
        elif m.position in ("sinusoidal", "sinusoidal_halves"):
            position = 1 / math.sqrt(2)
        self.start = 1.0 if m.embedding_norm else math.hypot(token, position)
        share = min(0.5, ECHO / math.sqrt(m.d_model)) if m.tied_head else UNTIED_SHARE
        layer_growth = share ** (-2.0 / stack.layers)
        low, high = 0.0, 1 / share
        for _ in range(60):
            self.ffn = (low + high) / 2
            growth = 1 + self.ffn**2
            growth *= (1 + (ATTENTION_SHARE * self.ffn) ** 2) ** attentions
            low, high = (self.ffn, high) if growth < layer_growth else (low, self.ffn)
        self.attention = ATTENTION_SHARE * self.ffn

    def before(self, layer: int, sublayer: int) -> float:
        """Size of the stream that a sublayer reads."""
        if self.m.placement == "post":
            return self.start if layer == 0 and sublayer == 0 else 1.0
        attention = math.sqrt(1 + self.attention**2)
        per_layer = math.sqrt(1 + self.ffn**2) * attention**self.attentions
        return self.start * per_layer**layer * attention**sublayer

    def attention_scale(self, layer: int, sublayer: int) -> dict[str, Dense]:
        """Projections q, k, v and out."""
        m = self.m
        unit = 1 / math.sqrt(m.d_model)
        key = seed_deviation(unit) / unit
        query = SCORE / (m.attention_scale * math.sqrt(m.head_dim) * key)
        out = self.attention * self.before(layer, sublayer)
        inner = self.stack.heads * m.head_dim
        return {
            "q": Dense(query * unit, BIAS_SHARE * query),
            "k": Dense(unit, BIAS_SHARE),
            "v": Dense(unit, BIAS_SHARE),
            "out": Dense(out / (key * math.sqrt(inner)), BIAS_SHARE * out),
        }

    def ffn_scale(self, layer: int) -> dict[str, Dense]:
        """Projections up (of the gate too) and down."""
        m = self.m
        unit = 1 / math.sqrt(m.d_model)
        hidden = seed_deviation(HIDDEN * unit) / unit
        threshold = -THRESHOLD * hidden if m.bias and not m.gated else 0.0
        power = mean_square(m.activation, threshold, hidden)
        if m.gated:
            power *= hidden * hidden
        out = self.ffn * self.before(layer, self.attentions)
        down = out / math.sqrt(power * self.stack.d_ff)
        return {
            "up": Dense(HIDDEN * unit, BIAS_SHARE, threshold),
            "down": Dense(down, BIAS_SHARE * out),
        }


@dataclass(frozen=True)
class Tensor:
    """One tensor of the layout; a vector has one row."""

    name: str
    rows: int
    cols: int
    exponent: int
    base: float = 0.0
    outlier_rows: bool = False


def dense(m: Model, name: str, out: int, inputs: int, d: Dense) -> Iterator[Tensor]:
    """Weight [out, inputs], and the bias where the model has them."""
    yield Tensor(
        f"{name}.weight", out, inputs, seed_exponent(d.weight), outlier_rows=True
    )
    if m.bias:
        base = float(np.float32(d.bias_mean))
        yield Tensor(f"{name}.bias", 1, out, seed_exponent(d.bias), base)


def norm(m: Model, name: str, gamma: float = 1.0) -> Iterator[Tensor]:
    """Gamma, and beta of a layer norm."""
    yield Tensor(f"{name}.gamma", 1, m.d_model, seed_exponent(GAMMA), gamma)
    if m.norm == "layer":
        yield Tensor(f"{name}.beta", 1, m.d_model, seed_exponent(BETA))


def side_layout(
    m: Model, side: str, stream: Stream, last_gamma: float
) -> Iterator[Tensor]:
    """One side without its embedding."""
    d, stack = m.d_model, stream.stack
    inner = stack.heads * m.head_dim
    if m.position == "learned":
        token = seed_deviation(embedding_deviation(m)) * m.embedding_scale
        rows = m.position_offset + m.max_positions
        yield Tensor(f"{side}.position", rows, d, seed_exponent(token / 3))
    if m.embedding_norm:
        yield from norm(m, f"{side}.embedding_norm")
    if m.position == "relative":
        exponent = seed_exponent(RELATIVE_BIAS)
        yield Tensor(f"{side}.relative_bias", m.relative_buckets, stack.heads, exponent)
    for i in range(stack.layers):
        layer = f"{side}.layers.{i}"
        for j, attention in enumerate(("self", "cross")[: stream.attentions]):
            yield from norm(m, f"{layer}.{attention}_norm")
            for part, scale in stream.attention_scale(i, j).items():
                shape = (d, inner) if part == "out" else (inner, d)
                yield from dense(m, f"{layer}.{attention}.{part}", *shape, scale)
        ends_side = m.placement == "post" and not m.final_norm and i + 1 == stack.layers
        yield from norm(m, f"{layer}.ffn_norm", last_gamma if ends_side else 1.0)
        ffn = stream.ffn_scale(i)
        for part in ("gate", "up") if m.gated else ("up",):
            yield from dense(m, f"{layer}.ffn.{part}", stack.d_ff, d, ffn["up"])
        yield from dense(m, f"{layer}.ffn.down", d, stack.d_ff, ffn["down"])
    if m.final_norm:
        yield from norm(m, f"{side}.final_norm", last_gamma)


def embedding_deviation(m: Model) -> float:
    """Of the embedding tables."""
    head = LOGIT / (m.head_scale * math.sqrt(m.d_model))
    return head if m.tied_head else 1 / m.embedding_scale


def weight_layout(m: Model) -> Iterator[Tensor]:
    """Every tensor of a model, with its names as in harness/weights/weights.h; the order differs."""
    embedding = embedding_deviation(m)
    names = ("shared",) if m.shared_embeddings else ("encoder", "decoder")
    for name in names:
        yield Tensor(f"{name}.embedding", m.vocab, m.d_model, seed_exponent(embedding))
    yield from side_layout(m, "encoder", Stream(m, m.encoder, 1, embedding), 1.0)
    last_gamma = -1.0 if m.tied_head else 1.0
    yield from side_layout(m, "decoder", Stream(m, m.decoder, 2, embedding), last_gamma)
    if not m.tied_head:
        head = LOGIT / (m.head_scale * math.sqrt(m.d_model))
        yield Tensor("head.weight", m.vocab, m.d_model, seed_exponent(head))
    if m.head_bias:
        yield Tensor("head.bias", 1, m.vocab, seed_exponent(HEAD_BIAS))


def parse_seed(weights: str) -> tuple[int, bool]:
    """Seed and outliers of "seed:N" or "seed:N,outliers". Raises ValueError."""
    number, _, outliers = weights.removeprefix("seed:").partition(",")
    if not weights.startswith("seed:") or outliers not in ("", "outliers"):
        raise ValueError(f"weights: '{weights}' is not seed:N or seed:N,outliers")
    return int(number), outliers == "outliers"


def half_up(x: float) -> int:
    """C's llround for what is not negative."""
    return math.floor(x + 0.5)


def ragged_lengths(ratio: float, batch: int, src: int) -> list[int]:
    """Lengths with the given mean over src, one of them src."""
    key = seeded.stream_key(INPUT_SEED, "batch.lengths")
    draw = [
        int(seeded.uniform_below(key, np.array([b], dtype=np.uint64), n)[0])
        for b, n in [(0, batch)] + [(b + 1, 1 << 24) for b in range(batch)]
    ]
    lengths = [src] * batch
    total, longest = half_up(ratio * src * batch), draw[0]
    if batch == 1:
        return lengths
    mean = (total - src) / (batch - 1)
    half_width = min(mean - 1, src - mean)
    others = [b for b in range(batch) if b != longest]
    for b in others:
        unit = (draw[b + 1] + 0.5) * 2.0**-24
        drawn = mean + (2 * unit - 1) * half_width
        lengths[b] = min(max(half_up(drawn), 1), src)
    at = 0
    while (missing := total - sum(lengths)) != 0:
        b, step = at % batch, 1 if missing > 0 else -1
        at += 1
        if b != longest and 1 <= lengths[b] + step <= src:
            lengths[b] += step
    return lengths


def source_batch(m: Model, lengths: str, batch: int, src: int) -> list[list[int]]:
    """The sources of a case, as harness/model/batch.cc makes them. Raises ValueError and OSError."""
    kind, _, rest = lengths.partition(":")
    if kind == "ids":
        lines = Path(rest).read_text().splitlines()[:batch]
        return [
            [int(word) for word in line.replace(",", " ").split()] for line in lines
        ]
    if kind == "file":
        sizes = [int(line) for line in Path(rest).read_text().split()]
    elif kind == "ragged":
        sizes = ragged_lengths(float(rest), batch, src)
    elif lengths == "full":
        sizes = [src] * batch
    else:
        raise ValueError(f"lengths: '{lengths}' is not full, ragged:R, file: or ids:")
    special = sorted({m.pad_id, m.eos_id, m.decoder_start_id})
    key = seeded.stream_key(INPUT_SEED, "batch.ids")
    sources = []
    for b, size in enumerate(sizes):
        index = (np.uint64(b) << np.uint64(32)) + np.arange(size, dtype=np.uint64)
        ids = seeded.uniform_below(key, index, m.vocab - len(special))
        for s in special:
            ids = ids + (ids >= s)
        sources.append(ids.tolist())
    return sources


def decoder_prefix(m: Model, batch: int, steps: int) -> NDArray[np.int64]:
    """Decoder inputs 0 .. steps - 1 of suite_decoder; the last one is fed to the measured step. [batch, steps]."""
    key = seeded.stream_key(INPUT_SEED, "decoder.prefix")
    special = [m.decoder_start_id, m.eos_id, m.pad_id]
    b, t = np.meshgrid(np.arange(batch), np.arange(steps), indexing="ij")
    draw = (b.astype(np.uint64) << np.uint64(32)) + t.astype(np.uint64)
    ids = np.full((batch, steps), m.decoder_start_id, dtype=np.int64)
    while (again := (t > 0) & np.isin(ids, special)).any():
        ids[again] = seeded.uniform_below(key, draw[again], m.vocab)
        draw[again] += np.uint64(1 << 16)
    return ids
