"""Ctrl-C, SIGTERM and SIGKILL at real processes in the middle of their work."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt.core.io import load, own_data_files, save
from tests.cli.command_line import contents, environment
from tests.cli.sample_models import mlp, mlp_data, normal, parsed, write

SAVER = """
import sys
from pathlib import Path
from onnxopt.core.io import load, save
model = load(Path(sys.argv[1]))
output, threshold = Path(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
while True:
    save(model, output, threshold=threshold)
    print("saved", flush=True)
"""
LEFT = re.compile(r"out\.[0-9a-f]{16}\.data|\.onnxopt-[0-9a-f]{16}\.partial")
"""What a kill between the steps of a save may leave."""


def big(path: Path) -> Path:
    """A model of 24 MB: saving it takes long enough to be hit."""
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 2000] x) => (float[N, 3000] y) { y = MatMul(x, w) }'
    return write(parsed(text, {"w": normal(2000, 3000)}), path)


@pytest.mark.parametrize("threshold", [10**9, 0], ids=["one file", "external data"])
def test_a_killed_save_leaves_the_old_file_or_the_new_one(threshold: int, tmp_path: Path) -> None:
    model = big(tmp_path / "big.onnx")
    folder = tmp_path / "out"
    folder.mkdir()
    output = folder / "out.onnx"
    output.write_bytes(b"the old result")
    moments = random.Random(0)
    seen: set[bool] = set()
    for turn in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(model), str(output), str(threshold)],
            stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        if turn % 2:
            assert process.stdout.readline() == "saved\n"
        time.sleep(moments.uniform(0, 0.15))  # the moment of the kill, not a synchronisation
        process.kill()
        process.wait()
        process.stdout.close()
        is_new = output.read_bytes() != b"the old result"
        seen.add(is_new)
        if is_new:
            onnx.checker.check_model(str(output))
            weight = onnx.load(output).graph.initializer[0]
            assert np.array_equal(onnx.numpy_helper.to_array(weight), normal(2000, 3000))
        data = {e.value for t in onnx.load(output, load_external_data=False).graph.initializer
                for e in t.external_data if e.key == "location"} if is_new else set()  # fmt: skip
        beside = set(contents(folder)) - {"out.onnx", *data}
        assert all(LEFT.fullmatch(name) for name in beside), "more is left than a save makes"
    save(load(model), output, threshold=threshold)
    data = {file.name for file in own_data_files(output)}
    assert set(contents(folder)) == {"out.onnx", *data}, "the next save removes what is left"
    assert True in seen, "no kill came after a complete save: the test saw too little"


def children(pid: int) -> list[int]:
    done = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return [child for child, parent in pairs if parent == pid]


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_quantization_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """The signal comes while a worker measures, the longest part of the work."""
    folder, scratch = tmp_path / "work", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    model, data = write(mlp(), folder / "m.onnx"), mlp_data(folder / "d.npz", samples=64)
    before = contents(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxopt", "--json", "quantize", str(model), "-o", str(folder / "out.onnx"),
         "--data", str(data), "--max-drop", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(TMPDIR=str(scratch)),
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (workers := children(process.pid)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (out, err)
    assert "interrupted" in err and "Traceback" not in err
    assert '"exit_code": 130' in out
    assert contents(folder) == before
    assert list(scratch.iterdir()) == []
    assert not any(is_alive(worker) for worker in workers)
