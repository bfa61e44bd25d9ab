"""Statistics of activations: of an earlier pass where there was one, else from one process, several, or a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt.core.cache import user_folder
from onnxopt.core.io import scratch_hash
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
    path = ctx.workdir / "calibrated.onnx"
    key = cache.key(scratch_hash(model, path), data.fingerprint(), names, ctx.target)
    folders = [ctx.workdir / "statistics", *user_folder(cache.KIND)]
    known = next((e for f in folders if (e := cache.read(f, key, names, histograms=histograms)) is not None), None)
    if known is None:
        with ctx.progress.task("calibrating", len(data)) as advance:
            if ctx.ray is not None:
                shard = Shard(path, tuple(names), data, ctx.target, histograms)
                known = on_ray(shard, ctx.ray, ctx.workers if ctx.workers > 1 else None, advance)
            elif ctx.workers > 1 and len(data) > 1:
                shard = Shard(path, tuple(names), data, ctx.target, histograms)
                known = in_processes(shard, ctx.workers, ctx.workdir, advance)
            else:
                known = calibrate(model, names, data, ctx.target, ctx.workdir, histograms=histograms, advance=advance)
    for folder in folders:
        cache.write(folder, key, known)
    return known
