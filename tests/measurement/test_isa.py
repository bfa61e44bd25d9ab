from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

import pytest

from onnxopt.measurement.installation import runtime_packages
from onnxopt.measurement.isa import int8_outlook


@pytest.mark.parametrize(
    ("flags", "is_fast", "word"),
    [
        ({"sse4_2", "avx2"}, False, "saturates"),
        ({"avx2", "avx512f", "avx512bw"}, False, "saturates"),
        ({"avx2", "avx_vnni"}, True, "VNNI"),
        ({"avx2", "avx512f", "avx512_vnni"}, True, "VNNI"),
        ({"avx2", "avx512f", "avx512_vnni", "amx_int8"}, True, "AMX"),
        ({"sse4_2"}, False, "memory"),
        ({"asimd"}, False, "NEON"),
        ({"asimd", "asimddp"}, True, "dot product"),
        ({"asimd", "asimddp", "i8mm"}, True, "i8mm"),
        (set(), None, "does not tell"),
    ],
)
def test_the_best_instruction_set_decides(flags: set[str], is_fast: bool | None, word: str) -> None:
    outlook = int8_outlook(flags)
    assert outlook.is_fast is is_fast
    assert word in outlook.sentence


def test_only_packages_that_bring_the_module_count(tmp_path: Path) -> None:
    for name, file in (
        ("onnxruntime", "onnxruntime/__init__.py"),
        ("onnxruntime-extensions", "onnxruntime_extensions/__init__.py"),
        ("onnxruntime-openvino", "onnxruntime/__init__.py"),
    ):
        info = tmp_path / f"{name.replace('-', '_')}-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (info / "RECORD").write_text(f"{file},,\n")
    found = runtime_packages(distributions(path=[str(tmp_path)]))
    assert found == {"onnxruntime": "2.0", "onnxruntime-openvino": "2.0"}
