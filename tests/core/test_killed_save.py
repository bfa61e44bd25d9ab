"""A save that is killed between the steps in which its files get their names, and what the next save removes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from onnxopt.core.io import load, own_data_files, save
from tests.cli.command_line import environment

TEXT = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 32] x) => (float[N, 32] y) { y = MatMul(x, w) }'
SAVER = """
import os, signal, sys
from pathlib import Path
from onnxopt.core.io import load, save

def kill_before(number):
    steps = 0
    def watched(step):
        def call(*arguments, **options):
            nonlocal steps
            steps += 1
            if steps == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments, **options)
        return call
    for name in ("link", "replace", "unlink"):
        setattr(os, name, watched(getattr(os, name)))

if sys.argv[2] == "hidden sibling":
    del os.O_TMPFILE
model = load(Path(sys.argv[1]))
for number, output in enumerate(sys.argv[3:], 1):
    child = os.fork()
    if not child:
        kill_before(number)
        save(model, Path(output), threshold=0)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Saves to each of the outputs in a child that is killed before its first step, its second, and so on."""
MOST_STEPS = 16
X = np.random.default_rng(0).standard_normal((4, 32), np.float32)


def write(path: Path, seed: int) -> Path:
    model = parser.parse_model(TEXT)
    weight = np.random.default_rng(seed).standard_normal((32, 32), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path.write_bytes(model.SerializeToString())
    return path


def answer(path: Path) -> np.ndarray:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.mark.parametrize("way", ["unnamed", "hidden sibling"])
def test_a_save_killed_at_any_step_leaves_a_pair_that_loads_and_the_next_one_cleans_up(
    way: str, tmp_path: Path
) -> None:
    if way == "unnamed" and not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no O_TMPFILE")
    old, new, last = (write(tmp_path / f"{seed}.onnx", seed) for seed in (1, 2, 3))
    outputs = [tmp_path / str(step) / "out.onnx" for step in range(MOST_STEPS)]
    for output in outputs:
        output.parent.mkdir()
        save(load(old), output, threshold=0)
    done = subprocess.run(
        [sys.executable, "-c", SAVER, str(new), way, *map(str, outputs)],
        env=environment(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    codes = [int(code) for code in done.stdout.split()]
    kills = codes.index(0)
    assert codes == [-signal.SIGKILL] * kills + [0] * (MOST_STEPS - kills)
    strays = 0
    for output, code in zip(outputs[: kills + 1], codes, strict=False):
        is_new = np.array_equal(answer(output), answer(new))
        assert is_new or np.array_equal(answer(output), answer(old))
        left, pair = names(output.parent), {"out.onnx", *(file.name for file in own_data_files(output))}
        assert len(pair) == 2 and pair <= left
        assert code or (is_new and left == pair)
        strays += left != pair
        save(load(last), output, threshold=0)
        assert np.array_equal(answer(output), answer(last))
        assert names(output.parent) == {"out.onnx", *(file.name for file in own_data_files(output))}
    assert strays > 2, "the kills came at too few steps"


def test_only_what_no_model_refers_to_is_removed(tmp_path: Path) -> None:
    model, output = load(write(tmp_path / "m.onnx", 1)), tmp_path / "out.onnx"
    stray = "0123456789abcdef"
    kept = {
        "out.0123456789abcde.data", "out.0123456789ABCDEF.data", f"out.{stray}.data.bak", f"other.{stray}.data",
        f"out.int8.{stray}.data", f"xout.{stray}.data", "out.data", "out.npz", f".{stray}.partial",
    }  # fmt: skip
    for name in (*kept, f"out.{stray}.data", "out.fedcba9876543210.data", f".onnxopt-{stray}.partial"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "out.aaaaaaaaaaaaaaaa.data").mkdir()
    (tmp_path / "out.bbbbbbbbbbbbbbbb.data").symlink_to("out.data")
    kept |= {"m.onnx", "out.onnx", "out.aaaaaaaaaaaaaaaa.data", "out.bbbbbbbbbbbbbbbb.data"}
    save(model, output)
    assert names(tmp_path) == kept


@pytest.mark.parametrize("name", ["renamed.onnx", "out.onnx.bak", "out.model"])
def test_a_data_file_that_another_model_refers_to_is_kept(name: str, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    save(load(write(tmp_path / "m.onnx", 1)), output, threshold=0)
    output.rename(tmp_path / name)
    wanted = answer(tmp_path / name)
    for threshold in (0, 10**9):
        save(load(write(tmp_path / "m.onnx", 2)), output, threshold=threshold)
        assert np.array_equal(answer(tmp_path / name), wanted)
    assert len(names(tmp_path)) == 4, "the data file of the second model is gone"


def test_what_a_living_process_is_about_to_finish_is_kept(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl", reason="files cannot be locked here")
    data, hidden = tmp_path / "out.0123456789abcdef.data", tmp_path / ".onnxopt-0123456789abcdef.partial"
    with data.open("wb") as first, hidden.open("wb") as second:
        for file in (first, second):
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b"x")
            file.flush()
        save(load(write(tmp_path / "m.onnx", 1)), tmp_path / "out.onnx")
        assert {data.name, hidden.name} < names(tmp_path)
    save(load(tmp_path / "m.onnx"), tmp_path / "out.onnx")
    assert names(tmp_path) == {"m.onnx", "out.onnx"}


def test_a_save_that_is_stopped_when_it_is_done_keeps_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, new = tmp_path / "out.onnx", write(tmp_path / "m.onnx", 2)
    save(load(write(tmp_path / "m.onnx", 1)), output, threshold=0)
    model = load(write(new, 2))
    flush = os.fsync

    def stops(descriptor: int) -> None:
        flush(descriptor)
        if os.path.isdir(f"/proc/self/fd/{descriptor}") and answer(output).tobytes() == answer(new).tobytes():  # noqa: PTH112
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stops)
    with pytest.raises(KeyboardInterrupt):
        save(model, output, threshold=0)
    onnx.checker.check_model(str(output))
    assert np.array_equal(answer(output), answer(new))
