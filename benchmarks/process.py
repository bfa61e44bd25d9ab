"""A command in a fresh process: exit code, output, wall time, and peak memory of all its processes together."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PERIOD_S = 0.05
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
FIRST_TO_GO = "1000"
"""For the kernel, should memory run out: the child, not whatever else is at work on the machine."""


@dataclass(frozen=True)
class Ran:
    """What a process did.

    Attributes:
        exit_code: Negative: the signal that ended it.
        wall_s: From start to end.
        peak_rss_mb: Largest sum (MiB) of the resident memory of its processes, looked at every 50 ms; at least the
            exact peak of the largest of them.
        out: Its stdout.
        err: Its stderr.
    """

    exit_code: int
    wall_s: float
    peak_rss_mb: float
    out: str
    err: str


def run(command: Sequence[str], folder: Path, timeout_s: float) -> Ran:
    """Run `command` in `folder`; one that takes longer than `timeout_s` is killed.

    The caller must stay small: on Linux a child's peak memory starts at that of the process it was spawned from.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, start_new_session=True)
        with suppress(OSError):
            Path(f"/proc/{child.pid}/oom_score_adj").write_text(FIRST_TO_GO)
        ended, peak = threading.Event(), [0.0]
        watch = threading.Thread(target=_watch, args=(child.pid, ended, peak, timeout_s))
        watch.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:  # interrupted: nothing is left behind
            _kill(child.pid)
            raise
        finally:
            wall_s = time.perf_counter() - start
            ended.set()
            watch.join()
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Ran(child.returncode, wall_s, max(peak[0], usage.ru_maxrss / 1024), out.read(), err.read())


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def _watch(pid: int, ended: threading.Event, peak: list[float], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not ended.wait(PERIOD_S):
        peak[0] = max(peak[0], sum(map(_resident_mb, _tree(pid))))
        if time.monotonic() > deadline:
            _kill(pid)


def _kill(group: int) -> None:
    with suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB
    except OSError:
        return 0.0
