"""Statistics of activations: of an earlier pass where there was one, else from one process, several, or a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt.core.cache import user_folder
from onnxopt.core.fingerprint import fingerprint
from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset
from onnxopt.passes.base import Context
from onnxopt.quantization.ranges import cache
from onnxopt.quantization.ranges.calibrate import calibrate
from onnxopt.quantization.ranges.observers import Statistics
from onnxopt.quantization.ranges.ray_shards import on_ray
from onnxopt.quantization.ranges.shards import Shard, in_processes

__all__ = ["statistics"]


def statistics(
    model: Model, names: Sequence[str], data: Dataset, ctx: Context, *, histograms: bool
) -> dict[str, Statistics]:
    """What ``calibrate`` finds, kept in ``ctx.workdir`` and in the user's cache: candidates share one pass.

    ``ctx.workers`` processes, or the cluster at ``ctx.ray``, share the work; the result is the same bit for bit.
    """
    key = cache.key(fingerprint(model), data.fingerprint(), names, ctx.target)
    own, users = ctx.workdir / "statistics", user_folder(cache.KIND)
    known = cache.read(own, key, names, histograms=histograms)
    if known is not None:
        return known
    known = next((e for f in users if (e := cache.read(f, key, names, histograms=histograms)) is not None), None)
    if known is None:
        known = _calibrated(model, names, data, ctx, histograms=histograms)
    for folder in (own, *users):
        cache.write(folder, key, known)
    return known


def _calibrated(
    model: Model, names: Sequence[str], data: Dataset, ctx: Context, *, histograms: bool
) -> dict[str, Statistics]:
    with ctx.progress.task("calibrating", len(data)) as advance:
        if ctx.ray is None and (ctx.workers < 2 or len(data) < 2):
            return calibrate(model, names, data, ctx.target, ctx.workdir, histograms=histograms, advance=advance)
        save_scratch(model, path := ctx.workdir / "calibrated.onnx")
        shard = Shard(path, tuple(names), data, ctx.target, histograms)
        if ctx.ray is None:
            return in_processes(shard, ctx.workers, ctx.workdir, advance)
        return on_ray(shard, ctx.ray, ctx.workers if ctx.workers > 1 else None, advance)
