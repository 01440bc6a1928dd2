"""Which weights stay: the twin of harness/weights/pruning/prune.h.

Layers, heads and columns of an FFN go first, those with the smallest sums of squares; the model that they leave is an
ordinary one. Masks are chosen on the values of each of its matrices before they are rounded. Magnitudes are compared as
fp32 without the sign. Of equal ones the first stays, of whole parts too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from twin.model import Model, Stack, half_up

Mask = NDArray[np.bool_]
Tensors = dict[str, NDArray[np.float32]]
Indices = list[int]


def parse_sparsity(text: str) -> dict[str, float]:
    """Each part of the axis with its number, 0 for 2:4; empty for dense."""
    parts: dict[str, float] = {}
    for part in () if text == "dense" else text.split("+"):
        name, _, number = ("2:4", "", "0") if part == "2:4" else part.partition(":")
        parts[name] = float(number)
    return parts


def largest_of_four(values: NDArray[np.float32]) -> Mask:
    """Of every four neighbours of a row [rows, cols] the two largest; four divides cols."""
    groups = np.abs(values).reshape(values.shape[0], -1, 4)
    order = np.argsort(-groups, axis=-1, kind="stable")
    keep = np.zeros(groups.shape, dtype=np.bool_)
    np.put_along_axis(keep, order[..., :2], True, axis=-1)
    return keep.reshape(values.shape)


def all_but_smallest(values: NDArray[np.float32], fraction: float) -> Mask:
    """All but the floor(fraction * size) smallest of a whole matrix."""
    sizes = np.abs(values).reshape(-1)
    order = np.argsort(-sizes, kind="stable")
    keep = np.ones(sizes.size, dtype=np.bool_)
    keep[order[sizes.size - math.floor(fraction * sizes.size) :]] = False
    return keep.reshape(values.shape)


def mask(values: NDArray[np.float32], parts: Mapping[str, float]) -> Mask:
    """What the patterns of a sparsity keep of one matrix."""
    keep = np.ones(values.shape, dtype=np.bool_)
    if "2:4" in parts:
        keep &= largest_of_four(values)
    if "unstructured" in parts:
        keep &= all_but_smallest(values, parts["unstructured"])
    if "threshold" in parts:
        keep &= np.abs(values) >= np.float32(parts["threshold"])
    return keep


def pruned(m: Model, tensors: Tensors, sparsity: str) -> tuple[Model, Tensors]:
    """The model that a sparsity leaves, its weights before rounding, zeros where single ones went.

    T5's bias by distance is one table a layer where heads went: other ones are left in each.
    """
    parts = parse_sparsity(sparsity)
    kept = dict(tensors)
    for side, stack in (("encoder", m.encoder), ("decoder", m.decoder)):
        stack = _smaller_side(m, kept, side, stack, parts)
        m = (
            replace(m, encoder=stack)
            if side == "encoder"
            else replace(m, decoder=stack)
        )
    for name, values in kept.items():
        if ".layers." in name and name.endswith(".weight"):
            kept[name] = np.where(mask(values, parts), values, np.float32(0))
    return m, kept


def _largest(sums: NDArray[np.float64], removed: int) -> Indices:
    order = np.argsort(-sums, kind="stable")[: len(sums) - removed]
    return sorted(order.tolist())


def _squares(values: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    """Sums over an axis: 1 leaves one a row."""
    sums: NDArray[np.float64] = np.square(values.astype(np.float64)).sum(axis=axis)
    return sums


def _smaller_side(
    m: Model, t: Tensors, side: str, stack: Stack, parts: Mapping[str, float]
) -> Stack:
    """Removes whole parts of one side in place."""
    layers = list(range(stack.layers))
    if "layers" in parts:
        norms = [
            sum(
                float(_squares(values, 1).sum())
                for name, values in t.items()
                if name.startswith(f"{side}.layers.{i}.") and name.endswith(".weight")
            )
            for i in layers
        ]
        layers = _largest(np.array(norms), half_up(parts["layers"] * stack.layers))
        left = {}
        for name in [name for name in t if name.startswith(f"{side}.layers.")]:
            layer, rest = name.removeprefix(f"{side}.layers.").split(".", 1)
            values = t.pop(name)
            if int(layer) in layers:
                left[f"{side}.layers.{layers.index(int(layer))}.{rest}"] = values
        t.update(left)
        stack = replace(stack, layers=len(layers))
    for i in range(stack.layers):
        at = f"{side}.layers.{i}"
        if "heads" in parts:
            removed = half_up(parts["heads"] * stack.heads)
            for attention in ("self", "cross") if side == "decoder" else ("self",):
                heads = _prune_heads(t, f"{at}.{attention}", m.head_dim, removed)
                if attention == "self" and f"{side}.relative_bias" in t:
                    table = t[f"{side}.relative_bias"]
                    t[f"{at}.relative_bias"] = table[:, heads]
        if "ffn" in parts:
            _prune_ffn(t, f"{at}.ffn", half_up(parts["ffn"] * stack.d_ff))
    if "heads" in parts:
        t.pop(f"{side}.relative_bias", None)
        stack = replace(
            stack, heads=stack.heads - half_up(parts["heads"] * stack.heads)
        )
    if "ffn" in parts:
        stack = replace(stack, d_ff=stack.d_ff - half_up(parts["ffn"] * stack.d_ff))
    return stack


def _prune_heads(t: Tensors, at: str, head_dim: int, removed: int) -> Indices:
    """The heads of one attention that stay."""
    sums = sum(_squares(t[f"{at}.{part}.weight"], 1) for part in "qkv")
    sums = sums + _squares(t[f"{at}.out.weight"], 0)
    heads = _largest(sums.reshape(-1, head_dim).sum(axis=1), removed)
    inner = np.array(heads)[:, None] * head_dim + np.arange(head_dim)
    for part in "qkv":
        for tensor in ("weight", "bias"):
            if f"{at}.{part}.{tensor}" in t:
                _keep_rows(t, f"{at}.{part}.{tensor}", inner.reshape(-1))
    t[f"{at}.out.weight"] = t[f"{at}.out.weight"][:, inner.reshape(-1)]
    return heads


def _prune_ffn(t: Tensors, at: str, removed: int) -> None:
    ups = [part for part in ("gate", "up") if f"{at}.{part}.weight" in t]
    sums = sum(_squares(t[f"{at}.{part}.weight"], 1) for part in ups)
    sums = sums + _squares(t[f"{at}.down.weight"], 0)
    inner = np.array(_largest(sums, removed))
    for part in ups:
        for tensor in ("weight", "bias"):
            if f"{at}.{part}.{tensor}" in t:
                _keep_rows(t, f"{at}.{part}.{tensor}", inner)
    t[f"{at}.down.weight"] = t[f"{at}.down.weight"][:, inner]


def _keep_rows(t: Tensors, name: str, rows: NDArray[np.int64]) -> None:
    """Rows of a matrix, or elements of a bias [1, n]."""
    values = t[name]
    t[name] = values[rows] if name.endswith(".weight") else values[..., rows]
