"""Statistics of activations from one streaming pass over the calibration data, or from an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from onnxopt.core.io import content_hash, save
from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset
from onnxopt.passes.base import Context
from onnxopt.quantization import cache
from onnxopt.quantization.observers import Histogram, Statistics
from onnxopt.quantization.ray_shards import on_ray
from onnxopt.quantization.shards import Shard, in_processes
from onnxopt.run.session import Feeds
from onnxopt.run.tap import tap
from onnxopt.run.target import Target

__all__ = ["calibrate", "statistics"]


def statistics(
    model: Model, names: Sequence[str], data: Dataset, ctx: Context, *, histograms: bool
) -> dict[str, Statistics]:
    """What ``calibrate`` finds, kept in ``ctx.workdir`` and in the user's cache: candidates share one pass.

    ``ctx.workers`` processes, or the cluster at ``ctx.ray``, share the work; the result is the same bit for bit.
    """
    path = ctx.workdir / "calibrated.onnx"
    save(model, path)
    key = cache.key(content_hash(path), data.fingerprint(), names, ctx.target)
    folders = [ctx.workdir / "statistics", *cache.user_folder()]
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


def calibrate(
    model: Model,
    names: Sequence[str],
    data: Dataset,
    target: Target,
    workdir: Path,
    *,
    histograms: bool,
    advance: Callable[[int], None] = lambda steps: None,
) -> dict[str, Statistics]:
    """Statistics of the named values over ``data``; memory does not grow with the number of samples.

    Args:
        model: The model; it is not changed.
        names: Names of values, each unique in the model. A value that no sample reaches keeps empty statistics.
        data: The samples; statistics per sample are those of one call each.
        target: Where the model runs.
        workdir: Folder for intermediate files.
        histograms: Whether ranges alone do not do.
        advance: Told of each call of the model.
    """
    found = dict.fromkeys(names, Statistics(histogram=Histogram() if histograms else None))

    def samples() -> Iterator[Feeds]:
        return (sample.feeds for sample in data)

    for values in tap(model, names, samples, target, workdir):
        for name, array in values.items():
            found[name] = found[name].update(array)
        advance(1)
    return found
