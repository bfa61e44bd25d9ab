"""The threads that a session really has, under an affinity mask and under a CPU quota of a cgroup."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from tests.cli.command_line import environment

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }'
COUNT = """
import os, sys
from pathlib import Path
from onnxopt.run.session import open_session
from onnxopt.run.target import Target
before = len(os.listdir("/proc/self/task"))
session = open_session(Path(sys.argv[1]), Target())
print(1 + len(os.listdir("/proc/self/task")) - before, Target().threads)
"""
V1, V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
PERIOD_US = 100_000

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def threads(model: Path, *before: str) -> list[int]:
    """How many threads compute in a session (the caller's is one), and how many onnxopt says that it uses."""
    command = [*before, sys.executable, "-c", COUNT, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    return [int(word) for word in done.stdout.split()]


def test_a_session_has_the_threads_of_its_target(model: Path) -> None:
    real, wanted = threads(model)
    assert real == wanted


@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset")
def test_one_core_gives_one_thread(model: Path) -> None:
    core = str(min(os.sched_getaffinity(0)))
    assert threads(model, "taskset", "-c", core) == [1, 1]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A new cgroup for CPU time, removed afterwards; skipped where this user may not make one."""
    is_v1 = (V1 / "cpu.cfs_quota_us").exists() or (V1 / "cgroup.procs").exists()
    folder = (V1 if is_v1 else V2) / f"onnxopt-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"a cgroup cannot be made here: {error}")
    try:
        if not any((folder / name).exists() for name in ("cpu.cfs_quota_us", "cpu.max")):
            pytest.skip("the cgroups here do not limit CPU time")
        yield folder
    finally:
        folder.rmdir()


@pytest.mark.parametrize(("cpus", "expected"), [(0.5, 1), (1.0, 1), (1.9, 1), (2.0, 2)])
def test_a_quota_gives_as_many_threads_as_whole_cpus(model: Path, cgroup: Path, cpus: float, expected: int) -> None:
    quota_us = int(cpus * PERIOD_US)
    if (cgroup / "cpu.max").exists():
        (cgroup / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
    else:
        (cgroup / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (cgroup / "cpu.cfs_quota_us").write_text(str(quota_us))
    enter = ("sh", "-c", f'echo $$ > {cgroup}/cgroup.procs && exec "$@"', "sh")
    expected = min(expected, len(os.sched_getaffinity(0)))
    assert threads(model, *enter) == [expected, expected]
