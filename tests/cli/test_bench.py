"""``bench`` as a matrix: rows that fail beside rows that do not, lists, batches, loads, baselines, interrupts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxopt.commands.bench import bench
from onnxopt.commands.common import Source
from onnxopt.core.io import content_hash
from onnxopt.core.report import Report
from tests.cli.command_line import Outcome, assert_explained, contents, environment
from tests.cli.sample_models import mlp, mlp_data, mlp_weights, parsed, write

Invoke = Callable[..., Outcome]
QUICK = ("--seconds", "0.05", "--runs", "30")
FIXED = """
<ir_version: 8, opset_import: ["" : 17]>
fixed (float[1, 16] x) => (float[1, 4] y) {
  h = MatMul(x, w1)
  r = Relu(h)
  y = MatMul(r, w2)
}
"""
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


def rows(document: dict) -> list[tuple[str, int | None, int]]:
    return [(r["model"], r["batch"], r["threads"]) for r in document["data"]["rows"]]


def test_every_combination_is_a_row_and_a_comparison(
    mlp_model: Path, mlp_npz: Path, tmp_path: Path, invoke: Invoke
) -> None:
    other = write(mlp(), tmp_path / "other.onnx")
    outcome = invoke("--json", "bench", mlp_model, other, "--data", mlp_npz, "--batch", "1,8", "--threads", "1,1",
                     *QUICK)  # fmt: skip
    document = outcome.document
    assert outcome.code == document["exit_code"] in (0, 5)
    assert rows(document) == [("mlp.onnx", 1, 1), ("other.onnx", 1, 1), ("mlp.onnx", 8, 1), ("other.onnx", 8, 1)]
    for row in document["data"]["rows"]:
        found = row["measurement"]
        assert (row["provider"], row["precision"], row["error"]) == ("cpu", "float32", None)
        assert found["batch_size"] == row["batch"]
        assert found["scenario"] == ("SingleStream" if row["batch"] == 1 else "MultiStream")
        assert (found["p90_ms"] is None) == (found["n"] < 64)
        assert "times_ms" not in found
    pairs = document["data"]["comparisons"]
    assert [(p["model"], p["reference"], p["batch"]) for p in pairs] == [("other.onnx", "mlp.onnx", b) for b in (1, 8)]
    assert all(p["latency"]["mde"] > 0 for p in pairs)


def test_cells_say_how_many_runs_are_missing(mlp_model: Path, mlp_npz: Path, invoke: Invoke) -> None:
    outcome = invoke("bench", mlp_model, "--data", mlp_npz, "--threads", 1, *QUICK)
    assert outcome.code == 0
    assert "SingleStream" in outcome.out and "cpu, batch 1, threads 1, float32, SingleStream" in outcome.out
    found = invoke("--json", "bench", mlp_model, "--data", mlp_npz, "--threads", 1, *QUICK).document
    table = next(t for t in found["tables"] if t["title"].startswith("Latency"))
    measurement = found["data"]["rows"][0]["measurement"]
    cell = table["rows"][0][table["columns"].index("p99 ms")]
    assert cell == measurement["p99_ms"] or cell == f"needs 662, had {measurement['n']}"


def test_a_fixed_batch_is_a_row_with_an_error_and_the_rest_is_measured(
    mlp_npz: Path, tmp_path: Path, invoke: Invoke
) -> None:
    dynamic, fixed = write(mlp(), tmp_path / "a.onnx"), write(parsed(FIXED, mlp_weights()), tmp_path / "b.onnx")
    outcome = invoke("--json", "bench", dynamic, fixed, "--data", mlp_npz, "--batch", "1,4", "--threads", 1, *QUICK)
    document = outcome.document
    assert outcome.code == document["exit_code"] == 3
    assert document["verdict"]["status"] == "error"
    assert "1 of 4 rows not measured: b.onnx (cpu, batch 4, 1 thread)" in document["verdict"]["reason"]
    errors = [r["error"] for r in document["data"]["rows"]]
    assert errors[:3] == [None] * 3 and "batches of 1 only" in errors[3]["what"] and "dynamic batch" in errors[3]["fix"]
    assert [p["error"] is None for p in document["data"]["comparisons"]] == [True, False]
    alone = invoke("bench", fixed, "--data", mlp_npz, "--batch", "4", "--threads", "1,2", *QUICK)
    assert_explained(alone, 3, "batches of 1 only", "--batch")


def test_a_missing_provider_is_reported_and_the_rest_is_measured(mlp_model: Path, invoke: Invoke) -> None:
    """Also without data: they are made up on the provider that is there."""
    outcome = invoke("bench", mlp_model, "--providers", "tensorrt,cpu", "--threads", 1, *QUICK)
    assert outcome.code == 3, outcome
    assert outcome.out.startswith("ERROR 1 of 2 rows not measured: mlp.onnx (tensorrt, 1 thread)")
    assert "onnxruntime-gpu" in outcome.out and "SingleStream" in outcome.out
    assert outcome.out.count("made up") == 2, "one note, that names itself once more"


@linux
def test_a_killed_worker_is_one_row(mlp_npz: Path, tmp_path: Path, invoke: Invoke) -> None:
    good, bad = write(mlp(), tmp_path / "good.onnx"), write(mlp(), tmp_path / "bad.onnx")
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.002):
            for pid in children(os.getpid()):
                with contextlib.suppress(OSError):  # it may end at any time
                    if "bad.onnx" in job_of(pid):
                        os.kill(pid, signal.SIGSEGV)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        outcome = invoke("--json", "bench", good, bad, "--data", mlp_npz, "--threads", 1, "--seconds", "1")
    finally:
        done.set()
        killer.join()
    document = outcome.document
    assert outcome.code == 3
    assert [r["measurement"] is not None for r in document["data"]["rows"]] == [True, False]
    assert "killed by SIGSEGV" in document["data"]["rows"][1]["error"]["what"]
    assert "bad.onnx" in document["data"]["rows"][1]["error"]["where"]
    assert "killed by SIGSEGV" in document["verdict"]["reason"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--batch", "1,,2"), ("--batch", "1,2")),
        (("--batch", "0"), ("--batch", "0")),
        (("--batch", "two"), ("--batch", "two")),
        (("--threads", "1,-1"), ("--threads", "-1")),
        (("--threads", "1;2"), ("--threads", "1;2")),
        (("--providers", "cpu,"), ("--providers", "cpu")),
        (("--providers", "cpu,cudda"), ("cudda", "did you mean 'cuda'")),
        (("--rate", "0"), ("--rate", "0")),
        (("--rate", "nan"), ("--rate", "nan")),
        (("--rate", "1", "--seconds", "2"), ("--rate", "--seconds 8")),
        (("--concurrency", "0"), ("--concurrency", "0")),
        (("--seconds", "inf"), ("--seconds", "inf")),
        (("--runs", "0"), ("--runs", "0")),
    ],
)
def test_a_wrong_value(
    options: tuple[str, ...], words: tuple[str, ...], mlp_model: Path, refused: Callable[..., Outcome]
) -> None:
    refused(2, ["bench", mlp_model, *options], *words)


def test_loads_have_the_names_of_mlperf(mlp_model: Path, mlp_npz: Path, invoke: Invoke) -> None:
    common = ("--json", "bench", mlp_model, "--data", mlp_npz, "--threads", 1, "--seconds", "0.2")
    offline = invoke(*common, "--concurrency", 2).document["data"]["rows"][0]["measurement"]
    assert (offline["scenario"], offline["concurrency"], offline["copy_ms"]) == ("Offline", 2, None)
    server = invoke(*common, "--rate", 100, "--concurrency", 2).document["data"]["rows"][0]["measurement"]
    assert (server["scenario"], server["rate"], server["concurrency"]) == ("Server", 100, 2)
    assert 0 < server["utilization"] < 1


def test_a_model_that_does_not_keep_up_fails(mlp_npz: Path, mlp_model: Path, invoke: Invoke) -> None:
    outcome = invoke("bench", mlp_model, "--data", mlp_npz, "--threads", 1, "--rate", 1e7, "--seconds", 0.1)
    assert outcome.code == 1, outcome
    assert "does not keep up with 1e+07 queries/s" in outcome.out.splitlines()[0]
    assert "overloaded" in outcome.out


def test_a_baseline_is_written_at_once_and_can_be_read(
    mlp_model: Path, mlp_npz: Path, tmp_path: Path, invoke: Invoke, refused: Callable[..., Outcome]
) -> None:
    file = tmp_path / "baseline.json"
    outcome = invoke("-q", "bench", mlp_model, "--data", mlp_npz, "--threads", 1, "--report", file, *QUICK)
    assert outcome.code == 0 and outcome.out.startswith("PASS")
    data = Report.from_json(file.read_text()).data
    model = data["models"]["mlp.onnx"]
    assert model["sha256"] == content_hash(mlp_model) and model["bytes"] == mlp_model.stat().st_size
    assert model["inputs"] == [["x", "float32", ["N", 16]]] and model["outputs"] == [["y", "float32", ["N", 4]]]
    assert data["data"]["samples"] == 64 and not data["data"]["synthetic"] and data["data"]["fingerprint"]
    assert data["rows"][0]["batch"] is None and data["rows"][0]["measurement"]["batch_size"] == 1
    refused(2, ["bench", mlp_model, "--report", mlp_model], "--report")
    refused(2, ["bench", mlp_model, "--data", mlp_npz, "--report", mlp_npz], "--report")
    refused(3, ["bench", mlp_model, "--report", tmp_path / "none" / "b.json"], "--report")


def test_a_half_precision_model_takes_the_data_of_the_float_one(mlp_npz: Path, tmp_path: Path, invoke: Invoke) -> None:
    half = mlp()
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in half.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    models = write(mlp(), tmp_path / "float.onnx"), write(half, tmp_path / "half.onnx")
    outcome = invoke("--json", "bench", *models, "--data", mlp_npz, "--threads", 1, *QUICK)
    assert outcome.code in (0, 5), outcome
    assert [r["precision"] for r in outcome.document["data"]["rows"]] == ["float32", "float16"]


def test_other_inputs_are_an_error_of_that_row(mlp_model: Path, mlp_npz: Path, tmp_path: Path, invoke: Invoke) -> None:
    renamed = mlp()
    renamed.graph.input[0].CopyFrom(helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 16]))
    renamed.graph.node[0].input[0] = "data"
    other = write(renamed, tmp_path / "renamed.onnx")
    outcome = invoke("bench", mlp_model, other, "--data", mlp_npz, "--threads", 1, *QUICK)
    assert outcome.code == 3 and "no array for input 'data'" in outcome.out.splitlines()[0]


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("as_json", [True, False])
def test_an_interrupt_prints_what_was_measured(number: signal.Signals, as_json: bool, tmp_path: Path) -> None:
    """The signal comes in the second row: its first worker is the fourth."""
    folder, scratch = tmp_path / "work", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    model, data = write(mlp(), folder / "m.onnx"), mlp_data(folder / "d.npz")
    before = contents(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxopt", *(["--json"] if as_json else []), "bench", str(model), "--data", str(data),
         "--batch", "1,2,3,4,5,6,7,8", "--threads", "1", "--report", str(folder / "b.json")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(TMPDIR=str(scratch)),
        start_new_session=True,
    )  # fmt: skip
    seen: set[int] = set()
    deadline = time.monotonic() + 60
    while len(seen) < 4:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        seen |= {pid for pid in children(process.pid) if job_of(pid)}
        time.sleep(0.01)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (out, err)
    assert "error: interrupted" in err and "Traceback" not in err
    if as_json:
        document = json.loads(out)
        assert (document["exit_code"], document["verdict"]["status"]) == (130, "interrupted")
        assert rows(document)[0] == ("m.onnx", 1, 1) and 1 <= len(rows(document)) < 8
        assert document["data"]["rows"][0]["measurement"]["n"] > 0
    else:
        assert out.startswith("INTERRUPTED interrupted after ") and "SingleStream" in out
    assert contents(folder) == before
    assert list(scratch.iterdir()) == []
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in seen)


def test_the_progress_covers_all_rows_and_what_fails(mlp_model: Path, mlp_npz: Path, tmp_path: Path) -> None:
    seen = Steps()
    fixed = write(parsed(FIXED, mlp_weights()), tmp_path / "b.onnx")
    bench([mlp_model, fixed], Source(str(mlp_npz)), batches=(4,), threads=(1,), seconds=0.05, progress=seen)
    assert seen.totals["all rows and comparisons"] == seen.done["all rows and comparisons"] == 2 * 3 + 3 + 17


class Steps:
    """Counts the steps of each task."""

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.done: dict[str, int] = {}

    @contextmanager
    def task(self, description: str, total: int | None) -> Generator[Callable[[int], None]]:
        self.totals[description], self.done[description] = total, 0

        def advance(steps: int) -> None:
            self.done[description] += steps

        yield advance

    def note(self, text: str) -> None:
        del text


def children(pid: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            yield int(entry.parent.name)


def job_of(pid: int) -> str:
    """The job that a worker process was given."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return Path(os.fsdecode(words[words.index(b"onnxopt.measurement.worker") + 1])).read_text()
    except (OSError, ValueError):
        return ""
