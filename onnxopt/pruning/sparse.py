"""Zeros in the weights of a whole model: layer by layer, each repaired for what the sparse layers before it give.

The sequential order and the wanted outputs are those of ``repair``: rows from the sparse model, outputs from the
original. In each layer the zeros follow from ``masks.eliminate``; the other weights are then solved for the original
outputs with the same zeros, the mean of the error goes into the bias, and what is best on held-out samples stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.passes.base import Context
from onnxopt.passes.gram import Gram, Reads, not_padding, observe
from onnxopt.pruning.layers import Layer
from onnxopt.pruning.masks import Pattern, costs, eliminate, refit
from onnxopt.pruning.ridge import LAMBDAS, WIDEST
from onnxopt.pruning.stages import HELD_OUT, MOST_PLACES, PLACES, VECTORS_A_ROW, Stream, side_by_side
from onnxopt.pruning.sums import Sums
from onnxopt.pruning.surgery import numbers

__all__ = ["Wanted", "channel_order", "maskable", "shares_by_error", "sparsified"]

Wanted: TypeAlias = Mapping[str, "float | Pattern"]
"""Name of a layer -> share of its weights that go, or a pattern."""

SMALLEST = 512
"""Layers with fewer weights in a group stay dense: there is nothing to gain."""
MOST = 0.98
"""Share of the weights of a layer that go at most where shares differ."""


def maskable(model: Model, found: Sequence[Layer], pattern: Pattern | None) -> tuple[list[Layer], list[Note]]:
    """The layers that get zeros, in graph order, and why the others stay dense."""
    order = {node: i for i, node in enumerate(model.graph)}
    taken: list[Layer] = []
    notes: list[Note] = []
    for layer in sorted(found, key=lambda layer: order[layer.linear.node]):
        reason = _reason(layer, pattern)
        if reason is None:
            taken.append(layer)
        else:
            notes.append(Note(layer.name, "dense", reason))
    return taken, notes


def _reason(layer: Layer, pattern: Pattern | None) -> str | None:
    weight, reads = layer.linear.weight, layer.reads
    if layer.linear.node.op_type not in ("Conv", "Gemm", "MatMul"):
        return f"{layer.linear.node.op_type} is not repaired"
    if not layer.can_solve or not weight.is_initializer():
        return "its weights are shared or part of the graph's own work"
    if layer.is_depthwise:
        return "it is a depthwise Conv: few weights, and each one counts"
    matrix = math.prod(numbers(weight).shape)
    if matrix // reads.groups < SMALLEST:
        return f"it has {matrix} weights: too few to gain anything"
    if reads.size > WIDEST:
        return f"it reads {reads.size} values at once: their moments would not fit into memory"
    channels = reads.size // math.prod(reads.kernel or (1,))
    if pattern is not None and channels % pattern.size:
        return f"{channels} input channels are no multiple of {pattern.size}"
    return None


def channel_order(layer: Layer) -> Array:
    """The rows so that the input channels of one tap of the kernel lie side by side."""
    taps = math.prod(layer.reads.kernel or (1,))
    return np.arange(layer.reads.size).reshape(-1, taps).T.ravel()


def shares_by_error(model: Model, taken: Sequence[Layer], share: float, ctx: Context) -> dict[str, float]:
    """Shares of zeros so that the weights that go are the cheapest of all layers, over the variance of their outputs.

    Args:
        model: The model; it is not changed.
        taken: The layers that get zeros.
        share: Of the weights of all of them together that go.
        ctx: Data, target, folder, seed.
    """
    wanted = dict.fromkeys(layer.reads for layer in taken)
    scores: dict[str, Array] = {}
    for reads, gram in observe(model, tuple(wanted), ctx):
        for layer in taken:
            if layer.reads == reads:
                scores[layer.name] = _scores(layer, reads, gram)
    if not scores or set(scores) != {layer.name for layer in taken}:
        return {layer.name: share for layer in taken}
    total = sum(len(s) for s in scores.values())
    low, high = -745.0, 745.0  # logarithms of the threshold
    for _ in range(60):
        middle = (low + high) / 2
        gone = sum(min(np.searchsorted(s, math.exp(middle)), MOST * len(s)) for s in scores.values())
        low, high = (middle, high) if gone < share * total else (low, middle)
    counted = {n: min(float(np.searchsorted(s, math.exp(high))), MOST * len(s)) / len(s) for n, s in scores.items()}
    return _scaled(counted, {n: len(s) for n, s in scores.items()}, share)


def _scores(layer: Layer, reads: Reads, gram: Gram) -> Array:
    """The cost of every weight over the variance of the output, ascending."""
    matrix = layer.matrix(numbers(layer.linear.weight))
    found: list[Array] = []
    variance = 0.0
    for part, moments in zip(gram.parts, gram.moments(centered=True), strict=True):
        for weight, moment in zip(matrix[:, part], moments, strict=True):
            variance += float((weight * (moment @ weight)).sum(dtype=np.float64))
            found.append(costs(weight, moment).ravel())
    return np.sort(np.concatenate(found)) / max(variance, 1e-30)


def _scaled(shares: dict[str, float], sizes: Mapping[str, int], share: float) -> dict[str, float]:
    """Shares moved so that together they are ``share``, none above the most."""
    total = sum(sizes.values())
    for _ in range(50):
        missing = share * total - sum(shares[n] * sizes[n] for n in shares)
        free = [n for n in shares if (shares[n] < max(MOST, share) if missing > 0 else shares[n] > 0)]
        if abs(missing) < 0.5 or not free:
            break
        each = missing / sum(sizes[n] for n in free)
        shares.update({n: float(np.clip(shares[n] + each, 0.0, max(MOST, share))) for n in free})
    return shares


def sparsified(
    model: Model, taken: Sequence[Layer], wanted: Wanted, shapes: Mapping[str, tuple[int, ...]], ctx: Context
) -> tuple[dict[str, Array], int]:
    """New values of constants, by name, and the number of samples that were fitted to.

    Args:
        model: The original, with biases; it is not changed.
        taken: The layers that get zeros, in graph order.
        wanted: What each of them gets.
        shapes: Shapes of the model's values in one call.
        ctx: Data to fit to, target, folder, seed.
    """
    weights: dict[str, Array] = {}
    if ctx.data is None:
        return weights, 0
    parts, original, sparse = side_by_side(model, [layer.linear.node for layer in taken], shapes, ctx)
    with ctx.progress.task("choosing zeros", len(taken)) as advance:
        for layer, stage in zip(taken, parts, strict=True):
            original.advance(stage, {})
            sparse.advance(stage, weights)
            weights.update(_layer(layer, original, sparse, wanted[layer.name], ctx.seed))
            advance(1)
    return weights, len(original.feeds)


def _layer(layer: Layer, original: Stream, sparse: Stream, wanted: float | Pattern, seed: int) -> dict[str, Array]:
    """New weights of one layer, and its bias where it has one of its own."""
    linear = layer.linear
    full = numbers(linear.weight)
    matrix = layer.matrix(full)
    bias = _bias(layer, matrix.shape[0] * matrix.shape[2])
    offsets = np.zeros((matrix.shape[0], matrix.shape[2])) if bias is None else bias.reshape(matrix.shape[0], -1)
    fit, held = _gather(layer, matrix, offsets.astype(np.float32), original, sparse, seed)
    order = channel_order(layer)
    raw, _, _, _ = fit.moments(centered=bias is not None)
    pairs = [eliminate(w[order], h[np.ix_(order, order)], wanted) for w, h in zip(matrix, raw, strict=True)]
    back = np.argsort(order)
    start: Array = np.stack([pair[0][back] for pair in pairs])
    keep: Array = np.stack([pair[1][back] for pair in pairs])
    best, moved = _best(fit, held, start, keep, offsets, has_bias=bias is not None)
    found = {linear.weight.name or "": layer.weight(np.where(keep, best, 0.0).astype(np.float32), full)}
    if bias is not None and linear.bias is not None:
        like = numbers(linear.bias)
        found[linear.bias.name or ""] = moved.reshape(like.shape).astype(like.dtype)
    return found


def _bias(layer: Layer, count: int) -> Array | None:
    """The values of a bias that nothing else reads, float64; ``None``: there is none that can be changed."""
    bias = layer.linear.bias
    if bias is None or not bias.is_initializer() or len(list(bias.uses())) != 1:
        return None
    values = numbers(bias).reshape(-1)
    return values.astype(np.float64) if values.size == count else None


def _best(fit: Sums, held: Sums, start: Array, keep: Array, offsets: Array, *, has_bias: bool) -> tuple[Array, Array]:
    """The weights and bias of least error on held-out samples: as they are, with a new bias, or solved again."""
    judge = held if held.count else fit
    h, r, x, y = fit.moments(centered=has_bias)

    def offset(weight: Array) -> Array:
        return y - np.einsum("gio,gi->go", weight, x) if has_bias else offsets

    candidates = [(start, offsets), (start, offset(start))]
    for strength in LAMBDAS[:3]:
        pairs = zip(h, r, start, keep, strict=True)
        weight = np.stack([refit(moment, cross, own, mask, strength) for moment, cross, own, mask in pairs])
        candidates.append((weight, offset(weight)))
    errors = [judge.error(weight, bias) for weight, bias in candidates]
    finite = [error if math.isfinite(error) else math.inf for error in errors]
    return candidates[int(np.argmin(finite))]


def _gather(
    layer: Layer, matrix: Array, offsets: Array, original: Stream, sparse: Stream, seed: int
) -> tuple[Sums, Sums]:
    """Rows of the sparse model and outputs of the original, from the samples to fit to and from the others."""
    groups, rows, columns = matrix.shape
    samples = len(original.feeds)
    most = min(MOST_PLACES, max(1, max(PLACES * samples, VECTORS_A_ROW * rows) // samples))
    rng = np.random.default_rng([seed, rows, columns])
    fit, held = Sums(groups, rows, columns), Sums(groups, rows, columns)
    for index in range(samples):
        before = original.value(index, layer.reads.value)
        after = sparse.value(index, layer.reads.value)
        chosen = layer.reads.draw(before, most, rng, not_padding(original.feeds[index]))
        x = layer.reads.at(before, chosen)
        y = np.matmul(matrix.transpose(0, 2, 1), x) + offsets[:, :, None]
        (held if index % HELD_OUT == HELD_OUT - 1 else fit).update(layer.reads.at(after, chosen), y)
    fit.flush()
    held.flush()
    return fit, held
