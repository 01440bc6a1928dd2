"""A model's pass in every stored form, and what the form costs in accuracy: a second opinion on engine `reference`.

Written from the description of the forms (harness/weights/{form,storage}.h, harness/weights/values/quantise.h), in numpy,
without a K/V cache. Values between operations are fp32 and sums are double, as the reference has them, so that both
quantise the same numbers.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin import model as models
from twin import pruning, quantise, seeded
from twin.model import Model, Stack

Matrix = NDArray[np.float32]

WEIGHTS = {"fp8": "f8", "int8": "i8", "w8a16": "i8", "w4a16": "i4"}
INPUTS = {"fp8": "f8", "int8": "i8"}  # whose products quantise their rows too
KINDS = {"fp8": "f8", "int8": "i8"}  # of the kv axis


@dataclass(frozen=True)
class Form:
    """The axes of a case that say how numbers are held; the default holds them exactly."""

    precision: str = "fp32"
    kv: str = "same"
    head: str = "same"
    sparsity: str = "dense"

    def kv_kind(self) -> str | None:
        """The codes of keys and values, or None."""
        if self.kv == "same":
            return INPUTS.get(self.precision)
        return KINDS.get(self.kv)


def fp32(values: NDArray[Any]) -> Matrix:
    """Rounded to fp32."""
    return values.astype(np.float32)


def quantised(kind: str, rows: Matrix) -> Matrix:
    """Each row as codes and scales, and back."""
    codes, scales = quantise.quantise_row(kind, rows)
    columns = rows.shape[1]
    wide = np.repeat(scales, quantise.GROUP[kind] or columns, axis=1)[:, :columns]
    return np.asarray(quantise.decode(kind, codes) * wide)


def stored(m: Model, weights: str, form: Form) -> tuple[Model, dict[str, Matrix]]:
    """What is left of the model, and every tensor by its name, with the values that the form gives it.

    The head is `head.weight` always.
    """
    seed, outliers = models.parse_seed(weights)
    tensors: dict[str, Matrix] = {}
    for t in models.weight_layout(m):
        tensors[t.name] = seeded.seeded_tensor(
            seed,
            t.name,
            (t.rows, t.cols),
            base=t.base,
            exponent=t.exponent,
            outliers=outliers and t.outlier_rows,
        )
    if m.tied_head:
        embedding = "shared.embedding" if m.shared_embeddings else "decoder.embedding"
        tensors["head.weight"] = tensors[embedding]
    m, tensors = pruning.pruned(m, tensors, form.sparsity)
    if form.precision == "fp32":
        return m, tensors
    kind = WEIGHTS.get(form.precision)
    for name, values in tensors.items():
        is_head = name == "head.weight"
        if (
            kind is None
            or not name.endswith(".weight")
            or (is_head and form.head == "16bit")
        ):
            tensors[name] = quantise.to_bf16(values)
        else:
            tensors[name] = quantised(
                "i8" if is_head and kind == "i4" else kind, values
            )
    return m, tensors


class Twin:
    """A model with seeded weights in one form."""

    def __init__(self, m: Model, weights: str, form: Form):
        self.form = form
        self.m, self.w = stored(m, weights, form)
        self.encoded: dict[tuple[int, ...], Matrix] = {}

    def dense(self, x: Matrix, name: str) -> Matrix:
        """A product with the weight and, where there is one, the bias of this name."""
        kind = INPUTS.get(self.form.precision)
        if kind is not None and not (name == "head" and self.form.head == "16bit"):
            x = quantised(kind, x)
        y = x.astype(np.float64) @ self.w[f"{name}.weight"].astype(np.float64).T
        if f"{name}.bias" in self.w:
            y = y + self.w[f"{name}.bias"].astype(np.float64)
        return fp32(y)

    def kept(self, x: Matrix) -> Matrix:
        """Keys or values of the decoder as their cache gives them back."""
        kind = self.form.kv_kind()
        if kind is None:
            return x
        return quantised(kind, x.reshape(-1, self.m.head_dim)).reshape(x.shape)

    def norm(self, x: Matrix, name: str) -> Matrix:
        """Layer norm or rms norm."""
        wide = x.astype(np.float64)
        if self.m.norm == "layer":
            wide = wide - wide.mean(axis=1, keepdims=True)
        scale = 1 / np.sqrt((wide**2).mean(axis=1, keepdims=True) + self.m.norm_eps)
        y = wide * scale * self.w[f"{name}.gamma"]
        return fp32(y + self.w[f"{name}.beta"] if self.m.norm == "layer" else y)

    def embed(self, ids: NDArray[np.int64], side: str) -> Matrix:
        """Tokens at positions 0, 1, ... and the norm after them, where the model has one."""
        m = self.m
        table = self.w[
            "shared.embedding" if m.shared_embeddings else f"{side}.embedding"
        ]
        x = m.embedding_scale * table[ids].astype(np.float64)
        positions = np.arange(len(ids)) + m.position_offset
        if m.position == "learned":
            x = x + self.w[f"{side}.position"][positions]
        elif m.position in ("sinusoidal", "sinusoidal_halves"):
            x = x + sinusoids(m, positions)
        return (
            self.norm(fp32(x), f"{side}.embedding_norm")
            if m.embedding_norm
            else fp32(x)
        )

    def attention(
        self, q: Matrix, k: Matrix, v: Matrix, heads: int, bias: NDArray[np.float64]
    ) -> Matrix:
        """Softmax over keys; `bias` [heads, queries, keys] holds -inf where a query does not see a key."""
        d = self.m.head_dim
        out = np.empty_like(q)
        for h in range(heads):
            columns = slice(h * d, (h + 1) * d)
            qh, kh, vh = (x[:, columns].astype(np.float64) for x in (q, k, v))
            scores = self.m.attention_scale * (qh @ kh.T) + bias[h]
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, columns] = fp32(weights / weights.sum(axis=1, keepdims=True) @ vh)
        return out

    def position_bias(
        self, side: str, layer: int, heads: int, length: int
    ) -> NDArray[np.float64]:
        """What self-attention adds to its scores: T5's relative bias, and the decoder's causal mask."""
        table = self.w.get(
            f"{side}.layers.{layer}.relative_bias", self.w.get(f"{side}.relative_bias")
        )
        decoder = side == "decoder"
        bias = np.zeros((heads, length, length))
        for offset in range(1 - length, length):  # key - query
            query = np.arange(max(0, -offset), length - max(0, offset))
            if decoder and offset > 0:
                bias[:, query, query + offset] = -np.inf
            elif table is not None:
                added = table[relative_bucket(self.m, offset, not decoder)]
                bias[:, query, query + offset] = added[:, None]
        return bias

    def ffn(self, x: Matrix, name: str) -> Matrix:
        """The feed-forward network, gated or plain."""
        up = self.dense(x, f"{name}.up").astype(np.float64)
        if not self.m.gated:
            return self.dense(fp32(activate(self.m.activation, up)), f"{name}.down")
        gate = activate(
            self.m.activation, self.dense(x, f"{name}.gate").astype(np.float64)
        )
        return self.dense(fp32(gate * up), f"{name}.down")

    def sublayer(self, x: Matrix, name: str, compute: Any) -> Matrix:
        """A residual connection and a norm around `compute`."""
        if self.m.placement == "pre":
            added: Matrix = x + compute(self.norm(x, name))
            return added
        return self.norm(x + compute(x), name)

    def encode(self, source: list[int]) -> Matrix:
        """One source -> [tokens, d_model]."""
        x = self.embed(np.array(source), "encoder")
        x = self.layers(x, "encoder", self.m.encoder, None)
        return self.norm(x, "encoder.final_norm") if self.m.final_norm else x

    def layers(
        self, x: Matrix, side: str, stack: Stack, encoded: Matrix | None
    ) -> Matrix:
        """All layers of a side; the decoder's see `encoded` too."""

        def attend(
            n: Matrix, other: Matrix, name: str, added: NDArray[np.float64]
        ) -> Matrix:
            q, k, v = (
                self.dense(t, f"{name}.{p}")
                for t, p in ((n, "q"), (other, "k"), (other, "v"))
            )
            if side == "decoder":
                k, v = self.kept(k), self.kept(v)
            return self.dense(
                self.attention(q, k, v, stack.heads, added), f"{name}.out"
            )

        for i in range(stack.layers):
            at = f"{side}.layers.{i}"
            bias = self.position_bias(side, i, stack.heads, len(x))
            x = self.sublayer(
                x,
                f"{at}.self_norm",
                lambda n, at=at, bias=bias: attend(n, n, f"{at}.self", bias),
            )
            if encoded is not None:
                seen = np.zeros((stack.heads, len(x), len(encoded)))
                x = self.sublayer(
                    x,
                    f"{at}.cross_norm",
                    lambda n, at=at, seen=seen: attend(n, encoded, f"{at}.cross", seen),
                )
            x = self.sublayer(
                x, f"{at}.ffn_norm", lambda n, at=at: self.ffn(n, f"{at}.ffn")
            )
        return x

    def logits(self, source: list[int], target: NDArray[np.int64]) -> Matrix:
        """Logits after every token of `target`, the decoder's start first -> [tokens, vocab]."""
        key = tuple(source)
        if key not in self.encoded:
            self.encoded[key] = self.encode(source)
        x = self.layers(
            self.embed(target, "decoder"),
            "decoder",
            self.m.decoder,
            self.encoded[key],
        )
        if self.m.final_norm:
            x = self.norm(x, "decoder.final_norm")
        return self.dense(fp32(self.m.head_scale * x.astype(np.float64)), "head")

    def generate(
        self, source: list[int], tokens: int, guess: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """What the model generates greedily, fed its own tokens.

        A guess is computed at once and replaced by what the logits along it say, until they say the same: each round
        makes one more token right, at least.
        """
        best = np.zeros(tokens, dtype=np.int64) if guess is None else guess
        while True:
            text = self.logits(source, retraced(self.m, best)).argmax(axis=1)
            if (text == best).all():
                return best
            best = text


def retraced(m: Model, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The decoder's inputs that retrace a text: its start, then all tokens but the last."""
    return np.concatenate([[m.decoder_start_id], tokens[:-1]])


def sinusoids(m: Model, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Vaswani et al. 2017, section 3.5, interleaved or in halves."""
    half = m.d_model // 2
    steps = half - 1 if m.sinusoid_spans_end else half
    angle = positions[:, None] / 10000.0 ** (np.arange(half) / steps)
    if m.position == "sinusoidal_halves":
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    return np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(len(positions), -1)


def relative_bucket(m: Model, offset: int, bidirectional: bool) -> int:
    """T5's bucket of (key position - query position): Raffel et al. 2020, section 2.1."""
    buckets, first, distance = m.relative_buckets, 0, max(-offset, 0)
    if bidirectional:
        buckets //= 2
        first, distance = (buckets if offset > 0 else 0), abs(offset)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(m.relative_max_distance / exact)
    return first + min(exact + int(share * (buckets - exact) + 1e-9), buckets - 1)


def activate(activation: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The activation functions by their words."""
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "gelu":
        erf: NDArray[np.float64] = np.vectorize(math.erf)(x / math.sqrt(2))
        return np.asarray(0.5 * x * (1 + erf))
    if activation == "gelu_tanh":
        return np.asarray(
            0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        )
    sigmoid = 1 / (1 + np.exp(-x))
    if activation == "silu":
        return np.asarray(x * sigmoid)
    return np.tanh(x) if activation == "tanh" else np.asarray(sigmoid)


def log_softmax(rows: Matrix) -> NDArray[np.float64]:
    """Of each row."""
    wide = rows.astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


SEQUENCES, SOURCE, GENERATED = 8, 32, 32
"""What every accuracy is measured on, whatever the sizes of the case."""


def accuracy(m: Model, case: dict[str, Any]) -> dict[str, float | None]:
    """The numbers of the `accuracy` of a case's record, against the dense fp32 model.

    `case` has suite, weights, precision, kv, head and, unless it is dense, sparsity. Both models are fed the text that the dense one generates; beside
    it the lossy one generates its own.
    """
    form = Form(
        case["precision"], case["kv"], case["head"], case.get("sparsity", "dense")
    )
    encoder = case["suite"] == "encoder"
    return dict(
        _encoded(m, case["weights"], form)
        if encoder
        else _text(m, case["weights"], form)
    )


@functools.cache
def _encoded(m: Model, weights: str, form: Form) -> dict[str, float | None]:
    sources = models.source_batch(m, "full", SEQUENCES, SOURCE)
    have, want = (
        np.concatenate([Twin(m, weights, f).encode(s) for s in sources])
        for f in (form, Form())
    )
    return {
        "relative_error": relative_error(have, want),
        "kl": None,
        "tokens_agree": None,
        "free_tokens_agree": None,
        "tokens": len(have),
    }


@functools.cache
def _dense_text(m: Model, weights: str) -> tuple[list[NDArray[np.int64]], Matrix]:
    """Of the dense model: the text of every source, and the logits along them all."""
    dense = Twin(m, weights, Form())
    sources = models.source_batch(m, "full", SEQUENCES, SOURCE)
    texts = [dense.generate(s, GENERATED) for s in sources]
    return texts, _along(dense, sources, texts)


def _along(t: Twin, sources: list[list[int]], texts: list[NDArray[np.int64]]) -> Matrix:
    pairs = zip(sources, texts, strict=True)
    return np.concatenate([t.logits(s, retraced(t.m, text)) for s, text in pairs])


@functools.cache
def _text(m: Model, weights: str, form: Form) -> dict[str, float | None]:
    own = Twin(m, weights, form)
    sources = models.source_batch(m, "full", SEQUENCES, SOURCE)
    texts, want = _dense_text(m, weights)
    have = _along(own, sources, texts)
    free = [
        own.generate(s, GENERATED, text) == text
        for s, text in zip(sources, texts, strict=True)
    ]
    p, q = log_softmax(want), log_softmax(have)
    return {
        "relative_error": relative_error(have, want),
        "kl": float((np.exp(p) * (p - q)).sum(axis=1).mean()),
        "tokens_agree": float((have.argmax(axis=1) == want.argmax(axis=1)).mean()),
        "free_tokens_agree": float(np.mean(free)),
        "tokens": len(have),
    }


def relative_error(have: Matrix, want: Matrix) -> float:
    """|have - want| / |want| over all values."""
    difference = have.astype(np.float64) - want
    return float(np.linalg.norm(difference) / np.linalg.norm(want.astype(np.float64)))
