"""Predicted latency of widths, from profiles at a few uniform widths; and the block of the target's kernels.

Source of the idea: the look-up tables of HALP (Shen et al. 2022) and SPDY (Frantar and Alistarh 2022). The tables are
taken inside the whole model, so that fusions and blocked layouts are as they will be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxopt.core.tensors import Array
from onnxopt.measurement.profile import profile
from onnxopt.pruning.costs import Costs, Share, Term, node_shares, sides
from onnxopt.pruning.factors import ROWS
from onnxopt.pruning.pruner import Pruner
from onnxopt.run.session import Feeds, Session, open_session
from onnxopt.run.target import Target

__all__ = ["DEFAULT_BLOCK", "block_size", "latency_costs", "quick_ratio"]

DEFAULT_BLOCK = 16
SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of the units of every group, for the profiles."""
SPLIT_SHARES = (0.9, 0.5, 0.25)
"""Of the rank at which two Convs cost as much as one, for the profiles of those that may become two."""
PROBE_CHANNELS, PROBE_SIZE, PROBE_ROUNDS = 96, 16, 60
PAIRS, LONGEST_S = 24, 2.5


def block_size(target: Target, workdir: Path) -> int:
    """The step in channels at which a Conv gets faster on the target: 4, 8 or 16.

    A chain of Convs with 96 channels is timed against 92 and 88, interleaved: a step counts that brings at least half
    of what it saves on paper.
    """
    sessions: dict[int, Session] = {}
    for less in (0, 4, 8):
        path = workdir / f"block-{less}.onnx"
        path.write_bytes(_probe(PROBE_CHANNELS - less).SerializeToString())
        sessions[less] = open_session(path, target)
    times: dict[int, list[int]] = {less: [] for less in sessions}
    feeds = {less: {"x": np.ones((1, PROBE_CHANNELS - less, PROBE_SIZE, PROBE_SIZE), np.float32)} for less in sessions}
    for _ in range(PROBE_ROUNDS):
        for less, session in sessions.items():
            times[less].append(_timed(session, [feeds[less]]))
    low = {less: float(np.percentile(found, 20)) for less, found in times.items()}
    for step in (4, 8):
        ideal = (1 - step / PROBE_CHANNELS) ** 2
        if low[step] / low[0] <= (1 + ideal) / 2:
            return step
    return DEFAULT_BLOCK


def _probe(channels: int) -> onnx.ModelProto:
    shape = [1, channels, PROBE_SIZE, PROBE_SIZE]
    weight = numpy_helper.from_array(np.full((channels, channels, 3, 3), 1e-3, np.float32), "w")
    names = ["x", "a", "b", "y"]
    nodes = [helper.make_node("Conv", [i, "w"], [o], pads=[1, 1, 1, 1]) for i, o in pairwise(names)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "probe", [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)], [weight]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def latency_costs(pruner: Pruner, feeds: Sequence[Feeds]) -> Costs:
    """Predicted milliseconds of widths, and of Convs that become two.

    The time of each node is a straight line over the share of its work that stays, fitted to the profiles.
    """
    groups, choices = len(pruner.structure.groups), pruner.choices
    cuts = [choices.whole(range(groups, len(choices.full))).near(choices.full * share) for share in SHARES]
    splits = [choices.whole(range(groups)).near(choices.full * share) for share in SPLIT_SHARES if pruner.factors]
    shares = node_shares(pruner.model, pruner.structure)
    with pruner.ctx.progress.task("timing widths", len(cuts) + len(splits)) as advance:
        points = _points(pruner, cuts, feeds, advance)
        two = _points(pruner, splits, feeds, advance)
    terms: list[Term] = []
    for column, factor, (read, made) in sides(pruner.structure, pruner.factors):
        name, between = factor.layer.name, (0.0, {column: 1 / factor.full})
        for part, side in ((f"{name}{ROWS}", read), (name, made)):
            found = [
                (float(kept[column] / factor.full), ms) for kept, ms in two.get(part, ()) if kept[column] < factor.full
            ]
            terms.append(replace(_term(found, (between, side), len(found)), gate=(column, factor.full, False)))
        whole = [(_work(shares.get(name, ()), kept), ms) for kept, ms in points.pop(name, ())]
        terms.append(replace(_term(whole, shares.get(name, ()), len(cuts)), gate=(column, factor.full, True)))
    for name, measured in points.items():
        axes = shares.get(name, ())
        terms.append(_term([(_work(axes, kept), ms) for kept, ms in measured], axes, len(cuts)))
    return Costs(terms, len(choices.full))


def _points(
    pruner: Pruner, widths: Sequence[Array], feeds: Sequence[Feeds], advance: Callable[[int], None]
) -> dict[str, list[tuple[Array, float]]]:
    """For each node the milliseconds at each of some widths."""
    points: dict[str, list[tuple[Array, float]]] = {}
    for kept in widths:
        times: dict[str, float] = {}
        for kernel in profile(pruner.bare(kept, "widths"), feeds, pruner.ctx.target).times:
            name = kernel.nodes[0] if kernel.nodes else ""
            times[name] = times.get(name, 0.0) + kernel.time_ms
        for name, ms in times.items():
            points.setdefault(name, []).append((kept, ms))
        advance(1)
    return points


def _work(axes: Sequence[Share], kept: Array) -> float:
    return float(np.prod([fixed + sum(s * kept[g] for g, s in units.items()) for fixed, units in axes]))


def _term(points: Sequence[tuple[float, float]], axes: tuple[Share, ...], enough: int) -> Term:
    """The straight line through the points, neither end below zero; their mean where they are not ``enough``."""
    works, times = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    if not axes or not points or len(points) < enough:
        return Term(float(times.mean()) if points else 0.0, 0.0, ())
    centre = works - works.mean()
    slope = float(centre @ times / max(float(centre @ centre), 1e-30))
    fixed = float(times.mean() - slope * works.mean())
    if slope <= 0:
        return Term(float(times.mean()), 0.0, ())
    if fixed < 0:
        fixed, slope = 0.0, float(works @ times / (works @ works))
    return Term(fixed, slope, axes)


def quick_ratio(reference: Path, candidate: Path, feeds: Sequence[Feeds], target: Target, seed: int = 0) -> float:
    """Latency of the candidate over that of the reference: interleaved pairs in this process, 25th percentiles."""
    sessions = [open_session(reference, target), open_session(candidate, target)]
    few = list(feeds)[:4]
    for session in sessions:
        _timed(session, few)
    times: list[list[int]] = [[], []]
    rng = np.random.default_rng(seed)
    for pair in range(PAIRS):
        first = int(rng.integers(2))
        for side in (first, 1 - first):
            times[side].append(_timed(sessions[side], few))
        if pair >= 7 and sum(map(sum, times)) > LONGEST_S * 1e9:
            break
    return float(np.percentile(times[1], 25) / np.percentile(times[0], 25))


def _timed(session: Session, samples: Sequence[Feeds]) -> int:
    """Nanoseconds that the samples take."""
    start = time.perf_counter_ns()
    for feeds in samples:
        session.raw.run(None, feeds)
    return time.perf_counter_ns() - start
