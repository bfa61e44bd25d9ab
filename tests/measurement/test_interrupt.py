"""Ctrl-C at the moment when a worker starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from onnxopt.measurement import process


def test_an_interrupt_while_a_worker_starts_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes when the process exists and its number is not yet known to the caller."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def interrupted(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(real(*arguments, **options))  # type: ignore[call-overload]
        os.kill(os.getpid(), signal.SIGINT)
        return started[-1]

    monkeypatch.setattr("onnxopt.measurement.process.subprocess.Popen", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        process._call([sys.executable, "-c", "import time; time.sleep(60)"])
    assert started[0].poll() == -signal.SIGKILL
    assert signal.getsignal(signal.SIGINT) is before
