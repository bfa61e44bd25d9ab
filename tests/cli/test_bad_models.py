"""Model files that cannot be used: exit 3, a message in three parts, nothing touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.cli.sample_models import CUSTOM, mlp, parsed, set_external, write, write_external

COMMANDS = ("inspect", "optimize", "quantize", "compare", "bench")


def arguments(command: str, model: Path, tmp_path: Path) -> list[object]:
    extra: dict[str, list[object]] = {
        "optimize": ["-o", tmp_path / "out.onnx"],
        "quantize": ["-o", tmp_path / "out.onnx"],
        "compare": [model],
    }
    return [command, model, *extra.get(command, [])]


def truncated(path: Path) -> tuple[str, ...]:
    payload = mlp().SerializeToString()
    path.write_bytes(payload[: len(payload) // 2])
    return ("truncated", path.name)


def text(path: Path) -> tuple[str, ...]:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    return ("not an ONNX file", "Git LFS", path.name)


def empty(path: Path) -> tuple[str, ...]:
    path.touch()
    return ("no ONNX graph", "0 bytes", path.name)


def folder(path: Path) -> tuple[str, ...]:
    path.mkdir()
    return ("folder", path.name)


def missing(path: Path) -> tuple[str, ...]:
    return ("No such file", path.name)


def too_long_name(path: Path) -> tuple[str, ...]:
    del path
    return ("too long",)


def pipe(path: Path) -> tuple[str, ...]:
    os.mkfifo(path)
    return ("not a regular file", path.name)


def link_loop(path: Path) -> tuple[str, ...]:
    path.symlink_to(path)
    return (path.name,)


def missing_data(path: Path) -> tuple[str, ...]:
    write_external(mlp(), path)
    (path.parent / "weights.bin").unlink()
    return ("weights.bin", "missing")


def short_data(path: Path) -> tuple[str, ...]:
    write_external(mlp(), path)
    data = path.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-100])
    return ("wrong length", "weights.bin")


def wrong_length(path: Path) -> tuple[str, ...]:
    write_external(mlp(), path)
    set_external(path, "length", "7")
    return ("wrong length", "length field 7")


def offset_beyond_the_end(path: Path) -> tuple[str, ...]:
    write_external(mlp(), path)
    set_external(path, "offset", "99999999")
    return ("wrong length", "weights.bin")


def negative_offset(path: Path) -> tuple[str, ...]:
    write_external(mlp(), path)
    set_external(path, "offset", "-64")
    return (path.name,)


def offset_of_letters(path: Path) -> tuple[str, ...]:
    write_external(mlp(), path)
    set_external(path, "offset", "abc")
    return (path.name,)


def climbing(path: Path) -> tuple[str, ...]:
    inner = path.parent / "inner"
    inner.mkdir()
    write_external(mlp(), path)
    set_external(path, "location", "../weights.bin")
    return ("outside the model's folder", "../weights.bin")


def absolute(path: Path) -> tuple[str, ...]:
    write_external(mlp(), path)
    set_external(path, "location", str(path.parent / "weights.bin"))
    return ("outside the model's folder",)


def linked_out(path: Path) -> tuple[str, ...]:
    write_external(mlp(), path)
    data = path.parent / "weights.bin"
    data.unlink()
    data.symlink_to("/etc/hostname")
    return ("outside the model's folder",)


def no_location(path: Path) -> tuple[str, ...]:
    write_external(mlp(), path)
    set_external(path, "location", "")
    return (path.name,)


def custom_op(path: Path) -> tuple[str, ...]:
    write(parsed(CUSTOM), path)
    return ("operator that ONNX Runtime does not have", "Wobble", path.name)


def future_opset(path: Path) -> tuple[str, ...]:
    model = mlp()
    model.opset_import[0].version = 999
    write(model, path)
    return ("999", path.name)


def future_ir(path: Path) -> tuple[str, ...]:
    model = mlp()
    model.ir_version = 999
    write(model, path)
    return ("IR version", path.name)


def undefined_value(path: Path) -> tuple[str, ...]:
    model = mlp()
    model.graph.node[2].input[0] = "nowhere"
    write(model, path)
    return ("nowhere", path.name)


def cyclic(path: Path) -> tuple[str, ...]:
    model = mlp()
    model.graph.node[0].input[0] = "r"
    write(model, path)
    return (path.name,)


def no_outputs(path: Path) -> tuple[str, ...]:
    model = mlp()
    del model.graph.output[:]
    write(model, path)
    return (path.name,)


def raw_data_too_short(path: Path) -> tuple[str, ...]:
    model = mlp()
    model.graph.initializer[0].raw_data = b"1234"
    write(model, path)
    return (path.name,)


def untyped_input(path: Path) -> tuple[str, ...]:
    model = mlp()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UNDEFINED
    write(model, path)
    return (path.name,)


def external_tensor_of_strings(path: Path) -> tuple[str, ...]:
    write_external(mlp(), path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].data_type = onnx.TensorProto.STRING
    write(model, path)
    return (path.name,)


BROKEN = [
    truncated, text, empty, folder, missing, pipe, link_loop, missing_data, short_data, wrong_length,
    offset_beyond_the_end, negative_offset, offset_of_letters, climbing, absolute, linked_out, no_location, custom_op,
    future_opset, future_ir, undefined_value, cyclic, no_outputs, raw_data_too_short, untyped_input,
    external_tensor_of_strings,
]  # fmt: skip


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_a_broken_model_is_refused_by_quantize(
    make: Callable[[Path], tuple[str, ...]], tmp_path: Path, refused: Callable[..., object]
) -> None:
    model = tmp_path / "inner" / "m.onnx" if make is climbing else tmp_path / "m.onnx"
    if make is climbing:
        words = climbing(tmp_path / "m.onnx")
        (tmp_path / "m.onnx").rename(model)
    else:
        words = make(model)
    refused(3, arguments("quantize", model, tmp_path), *words)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("make", [truncated, missing, short_data, custom_op, pipe], ids=lambda make: make.__name__)
def test_a_broken_model_is_refused_by_every_command(
    make: Callable[[Path], tuple[str, ...]], command: str, tmp_path: Path, refused: Callable[..., object]
) -> None:
    words = make(tmp_path / "m.onnx")
    refused(3, arguments(command, tmp_path / "m.onnx", tmp_path), *words)


def test_a_name_too_long_for_the_system(tmp_path: Path, refused: Callable[..., object]) -> None:
    refused(3, ["inspect", tmp_path / ("m" * 300)], "too long")


def test_the_second_model_of_compare_is_checked_too(
    mlp_model: Path, tmp_path: Path, refused: Callable[..., object]
) -> None:
    words = truncated(tmp_path / "m.onnx")
    refused(3, ["compare", mlp_model, tmp_path / "m.onnx"], *words)


def test_models_with_other_signatures_cannot_be_compared(
    mlp_model: Path, cnn_model: Path, refused: Callable[..., object]
) -> None:
    refused(3, ["compare", mlp_model, cnn_model], "cannot stand in for", "cnn.onnx")
