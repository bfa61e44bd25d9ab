"""Calibration in fresh processes, each with every n-th sample; their statistics are merged exactly.

A worker writes a line for each sample to its stdout, and its answer to a file. It ends itself when its stdin closes, so
that none outlives this process; whenever the wait for them is left, all are killed.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from onnxopt import errors
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError, OnnxoptError
from onnxopt.quantization.ranges.observers import Statistics
from onnxopt.run.target import Target

__all__ = ["Answer", "Shard", "in_processes"]

Answer = dict[str, Statistics] | tuple[str, str, str, str]
"""Statistics, or class and three parts of an error."""
SHOWN = 300


@dataclass(frozen=True)
class Shard:
    """What one process calibrates.

    Attributes:
        model: File of the model.
        names: Its values.
        data: The samples.
        target: Where the model runs.
        histograms: Whether ranges alone do not do.
    """

    model: Path
    names: tuple[str, ...]
    data: Dataset
    target: Target
    histograms: bool


def in_processes(whole: Shard, workers: int, workdir: Path, advance: Callable[[int], None]) -> dict[str, Statistics]:
    """The statistics of ``whole``, the same bits as from one process.

    Args:
        whole: What to calibrate.
        workers: Processes, at most one a sample.
        workdir: Folder for the files of the jobs.
        advance: Told of each sample.

    Raises:
        DataError: A worker was killed or crashed, or the samples cannot be sent to it.
        OnnxoptError: What a worker raised.
    """
    count = min(workers, len(whole.data))
    jobs = [workdir / f"shard{i}.pickle" for i in range(count)]
    for index, job in enumerate(jobs):
        part = replace(whole, data=whole.data.take(range(index, len(whole.data), count)))
        try:
            job.write_bytes(pickle.dumps(part))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise DataError(
                f"the samples cannot be read in other processes: {error}",
                where=whole.data.source,
                fix="use --workers 1",
            ) from error
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.extend(_start(job) for job in jobs)
        _wait(processes, advance)
        merged: dict[str, Statistics] = {}
        for process, job in zip(processes, jobs, strict=True):
            found = _answer(process, job, whole)
            merged = {name: merged[name].merge(s) if name in merged else s for name, s in found.items()}
        return merged
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _start(job: Path) -> subprocess.Popen[bytes]:
    home = str(Path(errors.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    with (job.with_suffix(".stderr")).open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "onnxopt.quantization.ranges.shard_worker", str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": path},
        )


def _wait(processes: list[subprocess.Popen[bytes]], advance: Callable[[int], None]) -> None:
    """Until all have closed their stdout, or one has failed: the others are then not worth waiting for."""
    lines: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def follow(stream: IO[bytes], process: subprocess.Popen[bytes]) -> None:
        for _ in stream:
            lines.put(1)
        lines.put(None if process.wait() == 0 else -1)

    for process in processes:
        if process.stdout is not None:
            threading.Thread(target=follow, args=(process.stdout, process), daemon=True).start()
    running = len(processes)
    while running:
        said = lines.get()
        if said == 1:
            advance(1)
        elif said is None:
            running -= 1
        else:
            return


def _answer(process: subprocess.Popen[bytes], job: Path, whole: Shard) -> dict[str, Statistics]:
    code, answer = process.poll(), job.with_suffix(".answer")
    if code is None:
        return {}  # another one failed first, and its error is raised
    if code != 0 or not answer.exists():
        stderr = job.with_suffix(".stderr").read_text(errors="replace").strip().splitlines()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise DataError(
            f"a calibration worker {how}" + (f": {stderr[-1][-SHOWN:]}" if stderr else ""),
            where=f"{whole.model.name}, {whole.data.source}",
            fix="use fewer --workers: each needs the memory of the whole model",
        )
    found: Answer = pickle.loads(answer.read_bytes())  # written by our own worker into our own folder
    if isinstance(found, tuple):
        name, what, where, fix = found
        kind: type[OnnxoptError] = getattr(errors, name)
        raise kind(what, where=where, fix=fix)
    return found
