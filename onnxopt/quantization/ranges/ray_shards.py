"""Calibration on a Ray cluster: the map-reduce of ``shards`` with Ray tasks instead of processes.

Everything goes by value, so that nodes need no shared files and samples need not be picklable: the files of the model
once, as objects of the cluster's store, and the samples in chunks bounded by bytes, of which only so many are on their
way as tasks can run. Nodes need the same version of onnxopt installed. A task whose worker dies is run again.
Statistics merge exactly: where the nodes have the same instruction sets, the result has the same bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from onnxopt import errors
from onnxopt.core.external import locations
from onnxopt.core.io import load
from onnxopt.core.plugins import optional
from onnxopt.data.dataset import Dataset, Sample
from onnxopt.errors import DataError, InputError, OnnxoptError
from onnxopt.quantization.ranges.observers import Statistics
from onnxopt.quantization.ranges.shards import Answer, Shard
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["on_ray"]

CHUNK_BYTES = 32 << 20
CHUNK_SAMPLES = 16
RETRIES = 3


def on_ray(whole: Shard, address: str, tasks: int | None, advance: Callable[[int], None]) -> dict[str, Statistics]:
    """The statistics of ``whole``, the same bits as from one process.

    Args:
        whole: What to calibrate.
        address: As ``ray.init`` takes it; ``"local"`` starts a cluster on this machine that ends with the call.
        tasks: At most so many at a time; ``None``: as many as the cluster has cores for.
        advance: Told of finished samples.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: The cluster cannot be reached.
        DataError: A worker died more often than is tried.
        OnnxoptError: What a worker raised.
    """
    ray: Any = optional("ray", "ray")
    with _cluster(ray, address):
        cores = [float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        needed = min(float(whole.target.threads), max(cores, default=1.0)) or 1.0
        limit = tasks or max(1, int(sum(cores) // needed))
        task = ray.remote(_calibrate).options(num_cpus=needed, max_retries=RETRIES)
        files = {path.name: ray.put(path.read_bytes()) for path in _files(whole.model)}
        merged: dict[str, Statistics] = {}
        running: dict[Any, int] = {}
        chunks = _chunks(whole.data)
        while True:
            while len(running) < limit and (chunk := next(chunks, None)) is not None:
                arguments = (whole.model.name, list(files), whole.names, chunk, whole.target, whole.histograms)
                running[task.remote(*arguments, *files.values())] = len(chunk)
            if not running:
                return merged
            (done,), _ = ray.wait(list(running), num_returns=1)
            for name, found in _answer(ray, done, whole).items():
                merged[name] = merged[name].merge(found) if name in merged else found
            advance(running.pop(done))


@contextmanager
def _cluster(ray: Any, address: str) -> Generator[None]:
    """A connection to the cluster; one that was there before stays."""
    known = ray.is_initialized()
    if not known:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except Exception as error:  # whatever is wrong with an address or a cluster
            raise InputError(
                f"the Ray cluster cannot be used: {str(error).strip().splitlines()[0] if str(error) else error!r}",
                where=f"--ray {address}",
                fix="give the address that `ray start --head` prints, or --ray local",
            ) from error
    try:
        yield
    finally:
        if not known:
            ray.shutdown()


def _files(model: Path) -> list[Path]:
    proto = onnx.ModelProto.FromString(model.read_bytes())
    return [model, *sorted(locations(proto, model))]


def _chunks(data: Dataset) -> Iterator[list[Feeds]]:
    chunk: list[Feeds] = []
    size = 0
    for sample in data:
        chunk.append(sample.feeds)
        size += sum(array.nbytes for array in sample.feeds.values())
        if size >= CHUNK_BYTES or len(chunk) == CHUNK_SAMPLES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _calibrate(
    model: str,
    names: Sequence[str],
    values: tuple[str, ...],
    feeds: Sequence[Feeds],
    target: Target,
    histograms: bool,
    *contents: bytes,
) -> Answer:
    """Runs in a worker: the statistics of a chunk, or the parts of an error."""
    from onnxopt.quantization.ranges.calibrate import calibrate

    with tempfile.TemporaryDirectory(prefix="onnxopt-") as temporary:
        folder = Path(temporary)
        for name, content in zip(names, contents, strict=True):
            (folder / name).write_bytes(content)
        samples = [Sample(item) for item in feeds]
        data = Dataset("samples", samples.__getitem__, tuple(range(len(samples))), "", False)
        try:
            return calibrate(load(folder / model), values, data, target, folder, histograms=histograms)
        except OnnxoptError as error:
            return type(error).__name__, error.what, error.where, error.fix


def _answer(ray: Any, done: Any, whole: Shard) -> dict[str, Statistics]:
    try:
        found: Answer = ray.get(done)
    except Exception as error:  # Ray wraps whatever happened to a worker
        text = str(error).strip().splitlines()
        raise DataError(
            f"a calibration task failed on the Ray cluster: {type(error).__name__}: {text[-1] if text else ''}",
            where=f"{whole.model.name}, {whole.data.source}",
            fix="see that the nodes have onnxopt installed and memory for the model, or use --workers instead",
        ) from error
    if isinstance(found, tuple):
        name, what, where, fix = found
        kind: type[OnnxoptError] = getattr(errors, name)
        raise kind(what, where=where, fix=fix)
    return found
