from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from onnxopt.errors import DataError, ModelError, ProviderError
from onnxopt.measurement.job import Answer, Effort, Job, Subject, Timing
from onnxopt.measurement.measure import measure
from onnxopt.measurement.paired import compare_latency
from onnxopt.measurement.process import Laboratory, spread
from onnxopt.measurement.worker import is_steady
from onnxopt.run.target import Target

ONE = Target(threads=1)
ENDLESS = Effort(rounds=10**9, most_seconds=600)
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


def children(pid: int) -> Iterator[int]:
    """Live child processes (zombies excluded)."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            yield int(entry.parent.name)


def soon(condition: object, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_four_times_the_work_is_told_in_both_directions(models: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    small, large = models / "chain2.onnx", models / "chain8.onnx"
    slower = compare_latency(small, large, feeds, ONE)
    faster = compare_latency(large, small, feeds, ONE, seed=1)
    assert (slower.decision, faster.decision) == ("slower", "faster")
    assert slower.low <= slower.ratio <= slower.high
    assert 3 <= slower.processes == len(slower.process_ratios)
    assert slower.pairs >= 8 * slower.processes
    assert slower.candidate.p25_ms <= slower.candidate.p50_ms
    assert slower.candidate.peak_rss_mb > 20
    assert json.loads(json.dumps(asdict(slower)))["decision"] == "slower"


def test_a_model_against_itself_is_no_large_gain(models: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    same = compare_latency(models / "chain8.onnx", models / "chain8.onnx", feeds, ONE, max_processes=4)
    assert same.decision != "faster" or same.high > 0.8


def test_a_measurement_is_consistent(models: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    found = measure(models / "chain8.onnx", feeds, ONE, processes=2, seconds=0.1)
    assert found.p25_ms <= found.p50_ms
    assert (found.p90_ms is None) == (found.n < 64)
    assert (found.p99_ms is None) == (found.n < 662)
    assert found.batch_size == 64
    assert found.throughput == pytest.approx(64_000 / found.mean_ms)
    assert found.load_ms > 0
    assert found.first_run_ms > 0
    assert not found.spinning


def test_samples_of_several_lengths_are_run_in_turn(models: Path, tmp_path: Path) -> None:
    samples = [{"x": np.zeros((n, 256), np.float32)} for n in (1, 200)]
    answer = Laboratory(tmp_path, samples).run(
        [Subject(str(models / "chain2.onnx"), ONE)], Effort(rounds=20, least_seconds=0), 0
    )
    times = answer.timings[0].runs_ns
    assert np.median(times[1::2]) > 2 * np.median(times[::2])


def test_errors_of_the_worker_arrive_whole(models: Path, tmp_path: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    chain = models / "chain2.onnx"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError) as caught:
        compare_latency(chain, broken, feeds, ONE)
    assert caught.value.where == "broken.onnx"
    with pytest.raises(DataError, match="does not run on this input"):
        measure(chain, [{"x": np.zeros((1, 3), np.float32)}], ONE)
    with pytest.raises(DataError, match="no sample"):
        measure(chain, [], ONE)
    with pytest.raises(ProviderError):
        measure(chain, feeds, Target(provider="openvino", threads=1))


@linux
def test_a_killed_worker_is_an_error_that_names_the_signal(
    models: Path, tmp_path: Path, feeds: list[dict[str, np.ndarray]]
) -> None:
    before = set(children(os.getpid()))

    def kill() -> None:
        soon(lambda: set(children(os.getpid())) - before)
        for pid in set(children(os.getpid())) - before:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ModelError, match="SIGKILL") as caught:
        Laboratory(tmp_path, feeds).run([Subject(str(models / "chain2.onnx"), ONE)], ENDLESS, 0)
    killer.join()
    assert caught.value.where == "chain2.onnx"
    assert "memory" in caught.value.fix


PARENT = """
import sys
from pathlib import Path
import numpy as np
from onnxopt.measurement.job import Effort, Subject
from onnxopt.measurement.process import Laboratory
from onnxopt.run.target import Target
feeds = [{"x": np.zeros((64, 256), np.float32)}]
subject = Subject(sys.argv[1], Target(threads=1))
Laboratory(Path(sys.argv[2]), feeds).run([subject], Effort(rounds=10**9, most_seconds=600), 0)
"""


@linux
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(models: Path, tmp_path: Path, sent: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT, str(models / "chain2.onnx"), str(tmp_path)]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        assert soon(lambda: list(children(parent.pid)))
        workers = list(children(parent.pid))
        time.sleep(0.5)
        parent.send_signal(sent)
        _, stderr = parent.communicate(timeout=20)
    finally:
        parent.kill()
        parent.wait()
    assert (b"KeyboardInterrupt" in stderr) is (sent == signal.SIGINT)
    assert soon(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers))


@linux
def test_ctrl_c_leaves_neither_a_worker_nor_a_file(models: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import numpy as np; from onnxopt.measurement.measure import measure;"
        "from onnxopt.run.target import Target;"
        "measure(Path(sys.argv[1]), [{'x': np.zeros((64, 256), np.float32)}], Target(threads=1), processes=10**6)"
    )
    command = [sys.executable, "-c", program, str(models / "chain2.onnx")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    try:
        assert soon(lambda: list(children(parent.pid)))
        time.sleep(1.0)
        parent.send_signal(signal.SIGINT)
        _, stderr = parent.communicate(timeout=20)
    finally:
        parent.kill()
        parent.wait()
    assert b"KeyboardInterrupt" in stderr
    assert not list(tmp_path.glob("onnxopt-*"))
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in read(p)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_the_worker_imports_no_more_than_it_needs() -> None:
    program = (
        "import sys, onnxopt.measurement.worker;"
        "print([m for m in ('onnx', 'onnx_ir', 'scipy', 'click', 'rich', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_job_and_answer_survive_the_trip() -> None:
    target = Target(threads=2, options={"a": "1"}, session_config={"b": "2"}, allow_fallback=True)
    job = Job((Subject("/m.onnx", target),), "/f.npz", (("x", "y"), ()), Effort(rounds=3), 7, 1)
    assert Job.from_json(job.to_json()) == job
    answer = Answer((Timing(1, 2, 3, (4, 5)),), None)
    assert Answer.from_document(json.loads(json.dumps(answer.to_document()))) == answer


def test_steady_means_two_like_windows() -> None:
    assert not is_steady([10.0] * 19, 10)
    assert is_steady([10.0] * 20, 10)
    assert not is_steady([10.0] * 10 + [9.0] * 10, 10)


def test_spread_takes_first_and_last() -> None:
    samples = [{"x": np.array([i])} for i in range(100)]
    chosen = [int(s["x"][0]) for s in spread(samples, 4)]
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 99, 4)
    assert spread(samples[:2], 4) == tuple(samples[:2])


@pytest.mark.parametrize(
    ("rounds", "seconds", "spent"), [(40, 0.1, False), (40, 0.3, True), (8, 1.0, True), (7, 99.0, False)]
)
def test_effort_ends_after_enough_rounds_or_time(rounds: int, seconds: float, spent: bool) -> None:
    assert Effort().is_spent(rounds, seconds) is spent
