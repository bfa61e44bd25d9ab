"""Fresh worker processes, one at a time: a job goes in as files, an answer or an error comes back.

No worker outlives the call that started it: it leads its own process group, which is killed whenever the wait for it is
left, by Ctrl-C too; and it ends itself when its parent is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt import errors
from onnxopt.data.dataset import evenly
from onnxopt.errors import DataError, ModelError, OnnxoptError
from onnxopt.measurement.job import Answer, Effort, Job, Load, Subject
from onnxopt.measurement.trace import Trace, TraceJob
from onnxopt.run.child import child_environment
from onnxopt.run.session import Feeds

__all__ = ["Laboratory", "spread"]

STDERR_SHOWN = 400


class Laboratory:
    """Runs jobs on the same samples, one fresh process each.

    It holds no result; its state is the folder with the samples.

    Args:
        folder: An existing folder for the files of the jobs.
        feeds: The samples that the models run on, in turn.

    Raises:
        DataError: There is no sample.
    """

    def __init__(self, folder: Path, feeds: Sequence[Feeds]) -> None:
        if not feeds:
            raise DataError(
                "there is no sample to run the model on",
                where="the data given for the measurement",
                fix="give at least one sample with --data",
            )
        self._folder = folder
        self._inputs = tuple(tuple(sample) for sample in feeds)
        np.savez(
            folder / "feeds.npz",
            allow_pickle=False,
            **{f"{i}_{j}": _plain(a) for i, sample in enumerate(feeds) for j, a in enumerate(sample.values())},
        )

    def run(self, subjects: Sequence[Subject], effort: Effort, seed: int, load: Load | None = None) -> Answer:
        """The answer of one fresh worker process.

        Raises:
            ModelError: A model cannot be loaded, or the process crashed.
            ProviderError: The provider cannot be used.
            DataError: A model does not run on a sample.
        """
        feeds = str(self._folder / "feeds.npz")
        job = Job(tuple(subjects), feeds, self._inputs, effort, seed, os.getpid(), load or Load())
        return Answer.from_document(self._ask("worker", job.to_json(), subjects))

    def trace(self, subject: Subject, runs: int) -> Trace:
        """What one fresh process saw of each kernel of a model; its files stay in the folder.

        Raises:
            ModelError: The model cannot be loaded, or the process crashed.
            ProviderError: The provider cannot be used.
            DataError: The model does not run on a sample.
        """
        feeds = str(self._folder / "feeds.npz")
        job = TraceJob(subject, feeds, self._inputs, runs, str(self._folder), os.getpid())
        return Trace.from_document(self._ask("trace_worker", job.to_json(), [subject]))

    def _ask(self, worker: str, job: str, subjects: Sequence[Subject]) -> dict[str, Any]:
        """The document with which a fresh process of the module ``worker`` answers ``job``."""
        source, sink = self._folder / "job.json", self._folder / "answer.json"
        sink.unlink(missing_ok=True)
        source.write_text(job, encoding="utf-8")
        command = [sys.executable, "-P", "-m", f"onnxopt.measurement.{worker}", str(source), str(sink)]
        code, stderr = _call(command)
        if code != 0 or not sink.exists():
            raise _crash(code, stderr, subjects)
        document = json.loads(sink.read_text(encoding="utf-8"))
        if "error" in document:
            name, what, where, fix = document["error"]
            kind: type[OnnxoptError] = getattr(errors, name)
            raise kind(what, where=where, fix=fix)
        return document["answer"]


def spread(feeds: Sequence[Feeds], count: int) -> tuple[Feeds, ...]:
    """At most ``count`` of the samples, evenly spaced."""
    return tuple(feeds[i] for i in evenly(len(feeds), count))


def _call(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and error output of ``command``; its process group does not outlive this call."""
    worker: subprocess.Popen[bytes] | None = None
    try:
        with _held_back():
            worker = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=child_environment(),
                start_new_session=True,
            )
        _, stderr = worker.communicate()
    except BaseException:
        if worker is None:
            raise
        if hasattr(os, "killpg"):
            os.killpg(worker.pid, signal.SIGKILL)
        else:
            worker.kill()
        worker.communicate()
        raise
    return worker.returncode, stderr.decode(errors="replace")


@contextmanager
def _held_back() -> Generator[None]:
    """Lets Ctrl-C and SIGTERM wait until the end, so that no process starts that nobody knows of."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    caught: list[int] = []
    handlers = {n: h for n in (signal.SIGINT, signal.SIGTERM) if callable(h := signal.getsignal(n))}
    for number in handlers:
        signal.signal(number, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in caught:
            signal.raise_signal(number)


def _crash(code: int, stderr: str, subjects: Sequence[Subject]) -> ModelError:
    models = " and ".join(dict.fromkeys(Path(path).name for s in subjects for path in s.paths))
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        fix = "run it once in ONNX Runtime by itself: a kernel of the provider fails on this model"
        if name == "SIGKILL":
            fix = "free memory, or measure on smaller inputs: the system kills a process that needs more than there is"
        return ModelError(f"the process that ran the model was killed by {name}", where=models, fix=fix)
    said = stderr.strip().splitlines()
    return ModelError(
        f"the process that ran the model ended with exit code {code}"
        + (f": {said[-1][-STDERR_SHOWN:]}" if said else ""),
        where=models,
        fix="run the model once in ONNX Runtime by itself with these inputs",
    )


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array without Python objects: ONNX Runtime takes unicode arrays as strings."""
    return array.astype(np.str_) if array.dtype.hasobject else array
