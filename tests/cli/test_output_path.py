"""Where a result may go: refusals before any work, and nothing half-written when the disk ends."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from onnxopt.core.io import load, save
from tests.cli.command_line import REPOSITORY, Outcome, assert_explained, contents, environment
from tests.cli.sample_models import mlp, normal, parsed, write, write_external

Refused = Callable[..., object]
COMMANDS = ("optimize", "quantize")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("nowhere/out.onnx", ("does not exist", "nowhere")),
        ("mlp.npz/out.onnx", ("mlp.npz",)),
        ("", ("folder",)),
        ("/proc/out.onnx", ("/proc",)),
        ("/dev/null", ("special file", "/dev/null")),
        ("/dev/full", ("special file",)),
        ("x" * 300, ("too long",)),
    ],
)
def test_a_place_that_cannot_be_written(
    command: str, output: str, words: tuple[str, ...], mlp_model: Path, mlp_npz: Path, tmp_path: Path, refused: Refused
) -> None:
    refused(3, [command, mlp_model, "-o", tmp_path / output, "--data", mlp_npz], *words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(mlp_model: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(3, ["quantize", mlp_model, "-o", tmp_path / "locked" / "out.onnx"], "permission")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("spelling", ["same", "dotted", "link", "linked folder"])
def test_the_input_is_never_the_output(
    command: str, spelling: str, mlp_model: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "link.onnx").symlink_to(mlp_model)
    (tmp_path / "folder").symlink_to(tmp_path)
    output = {
        "same": mlp_model,
        "dotted": f"{tmp_path}/././mlp.onnx",
        "link": tmp_path / "link.onnx",
        "linked folder": tmp_path / "folder" / "mlp.onnx",
    }[spelling]
    refused(2, [command, mlp_model, "-o", output], "the output is an input")


def test_other_inputs_are_no_output_either(mlp_model: Path, mlp_npz: Path, tmp_path: Path, refused: Refused) -> None:
    shutil.copy(mlp_npz, tmp_path / "eval.npz")
    arguments = ["quantize", mlp_model, "--data", mlp_npz, "--eval-data", tmp_path / "eval.npz", "-o"]
    for output in (mlp_npz, tmp_path / "eval.npz"):
        refused(2, [*arguments, output], "the output is an input")


def test_the_data_file_of_the_input_is_no_output(tmp_path: Path, refused: Refused) -> None:
    model = write_external(mlp(), tmp_path / "m.onnx")
    refused(2, ["quantize", model, "-o", tmp_path / "weights.bin"], "the output is an input")


def test_a_data_file_that_input_and_old_output_share_is_kept(tmp_path: Path, refused: Refused) -> None:
    """Replacing the old output would remove its data file, and the input with it."""
    save(load(write(mlp(), tmp_path / "m.onnx")), tmp_path / "out.onnx", threshold=0)
    shutil.copy(tmp_path / "out.onnx", tmp_path / "copy.onnx")
    refused(2, ["quantize", tmp_path / "copy.onnx", "-o", tmp_path / "out.onnx"], "shares its data file")


def test_a_data_file_of_the_input_that_the_output_would_take_for_its_own_is_kept(
    tmp_path: Path, refused: Refused
) -> None:
    save(load(write(mlp(), tmp_path / "m.onnx")), tmp_path / "out.onnx", threshold=0)
    (tmp_path / "out.onnx").rename(tmp_path / "renamed.model")
    refused(2, ["optimize", tmp_path / "renamed.model", "-o", tmp_path / "out.onnx"], "shares its data file")


def test_the_demo_checks_its_output_first(tmp_path: Path, refused: Refused) -> None:
    refused(3, ["demo", "-o", tmp_path / "nowhere" / "out.onnx"], "does not exist")


def test_an_old_output_is_replaced_through_a_link(
    mlp_model: Path, mlp_npz: Path, tmp_path: Path, invoke: Callable[..., Outcome], no_clock: None
) -> None:
    (tmp_path / "real.onnx").write_bytes(b"old")
    (tmp_path / "link.onnx").symlink_to("real.onnx")
    outcome = invoke("quantize", mlp_model, "-o", tmp_path / "link.onnx", "--data", mlp_npz, "--max-drop", 1)
    assert outcome.code == 0, outcome
    assert (tmp_path / "link.onnx").is_symlink()
    onnx.checker.check_model(str(tmp_path / "real.onnx"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.onnx", "mlp.npz", "mlp.onnx", "real.onnx"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def large() -> onnx.ModelProto:
    """A model of 1 MB in which one node can go, so that ``optimize`` writes it."""
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 512] x) => (float[N, 512] y)'
    return parsed(text + "{ a = MatMul(x, w)\n b = Identity(a)\n y = Relu(b) }", {"w": normal(512, 512)})


def test_a_full_disk_keeps_the_old_file(
    small_disk: Path, tmp_path: Path, invoke: Callable[..., Outcome], no_clock: None
) -> None:
    model = write(large(), tmp_path / "m.onnx")
    (small_disk / "out.onnx").write_bytes(b"the old result")
    before = contents(small_disk)
    outcome = invoke("optimize", model, "-o", small_disk / "out.onnx")
    assert_explained(outcome, 3, "No space left", "free some space")
    assert contents(small_disk) == before


def test_a_full_temporary_folder_is_explained(small_disk: Path, tmp_path: Path, shell: Callable[..., Outcome]) -> None:
    model = write(large(), tmp_path / "m.onnx")
    outcome = shell("optimize", model, "-o", tmp_path / "out.onnx", TMPDIR=str(small_disk))
    assert_explained(outcome, 3, "No space left", str(small_disk))
    assert contents(small_disk) == {} and not (tmp_path / "out.onnx").exists()


def test_a_limit_on_the_size_of_files_is_explained(tmp_path: Path) -> None:
    model = write(large(), tmp_path / "m.onnx")
    before = contents(tmp_path)
    script = "import sys; from pathlib import Path; from onnxopt.core.io import load, save\n" \
        "from onnxopt.errors import OutputError\n" \
        "try:\n save(load(Path(sys.argv[1])), Path(sys.argv[2]), threshold=int(sys.argv[3]))\n" \
        "except OutputError as error:\n print(error)\n sys.exit(error.exit_code)"  # fmt: skip
    for threshold in (0, 10**9):
        done = subprocess.run(
            [sys.executable, "-c", script, str(model), str(tmp_path / "out.onnx"), str(threshold)],
            capture_output=True, text=True, env=environment(), cwd=REPOSITORY, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        )  # fmt: skip
        assert done.returncode == 3 and "File too large" in done.stdout, done
        assert "raise the limit" in done.stdout
        assert contents(tmp_path) == before
