"""``--profile`` as a user meets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from onnxopt.commands.profile_tables import profile_models
from onnxopt.errors import ModelError
from onnxopt.run.target import Target
from tests.cli.command_line import Outcome, latency
from tests.cli.sample_models import FEATURES, mlp, normal, parsed, write


def test_inspect_shows_time_by_kernel_and_node(invoke: Callable[..., Outcome], cnn_model: Path, cnn_npz: Path) -> None:
    outcome = invoke("inspect", cnn_model, "--data", cnn_npz, "--profile", "--threads", 1)
    assert outcome.code == 0, outcome
    for words in (f"Kernels of {cnn_model.name}", f"Nodes of {cnn_model.name}", "total", "100.0%", "behind nodes of"):
        assert words in outcome.out
    assert "against" not in outcome.out


def test_without_the_option_nothing_is_profiled(invoke: Callable[..., Outcome], cnn_model: Path) -> None:
    assert "profiles" not in invoke("inspect", cnn_model, "--json").document["data"]


def test_bench_compares_by_region(
    invoke: Callable[..., Outcome], quantized: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    int8 = quantized(mlp(), "--mode", "dynamic")
    first = int8.parent / "m.onnx"
    monkeypatch.setattr("onnxopt.commands.matrix.compare_latency", lambda *args, **options: latency("faster"))
    document = invoke("bench", first, int8, "--profile", "--json").document
    profiles, regions = document["data"]["profiles"], document["data"]["regions"]
    assert set(profiles) == {first.name, int8.name}
    assert set(regions) == {int8.name}
    for side, name in (("reference_ms", first.name), ("candidate_ms", int8.name)):
        total = sum(kernel["time_ms"] for kernel in profiles[name]["kernels"])
        assert total == pytest.approx(profiles[name]["total_ms"])
        assert total == pytest.approx(sum(region[side] for region in regions[int8.name]))
    titles = [table["title"] for table in document["tables"]]
    assert f"{int8.name} against {first.name} by region, losses first" in titles


def test_a_failure_of_the_first_model_is_an_error_and_of_another_a_note(mlp_model: Path, tmp_path: Path) -> None:
    feeds = [{"x": normal(4, FEATURES)}]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    found = profile_models({"a": mlp_model, "b": broken}, feeds, Target(threads=1))
    assert set(found.data["profiles"]) == {"a"}
    assert [(note.node, note.verdict) for note in found.notes if note.node == "b"] == [("b", "not profiled")]
    with pytest.raises(ModelError):
        profile_models({"b": broken, "a": mlp_model}, feeds, Target(threads=1))


def test_long_tables_end_with_the_sum_of_the_rest(tmp_path: Path) -> None:
    layers = 20
    weights = {f"w{i}": normal(FEATURES, FEATURES, seed=i) for i in range(layers)}
    chain = " ".join(f"h{i + 1} = MatMul(h{i}, w{i})" for i in range(layers))
    text = f'<ir_version: 8, opset_import: ["" : 17]> m (float[N, 16] h0) => (float[N, 16] h{layers}) {{ {chain} }}'
    path = write(parsed(text, weights), tmp_path / "m.onnx")
    found = profile_models({"a": path, "b": path}, [{"h0": normal(4, FEATURES)}], Target(threads=1))
    kernels, nodes, regions = found.tables
    assert [row[:2] for row in kernels.rows] == [("MatMul", layers), ("total", layers)]
    assert [len(nodes.rows), nodes.rows[-1][0]] == [16, "5 others"]
    assert [len(regions.rows), regions.rows[-2][0], regions.rows[-1][0]] == [17, "5 others", "total"]
    for column in (2, 3):
        assert sum(row[column] for row in regions.rows[:-1]) == pytest.approx(regions.rows[-1][column])
    assert len(found.data["regions"]["b"]) == layers
