"""``prune`` and ``quantize`` with ``--recover distill``: trained on what the input model answers, kept when better."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt.core.io import content_hash
from tests.cli.command_line import REPOSITORY, latency

MNIST = REPOSITORY / "calibration_data" / "mnist"
MODEL = MNIST / "mnist_cnn.onnx"


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency measurements that take no time, for tests of everything else."""
    for module in ("commands.prune", "commands.recovery", "quantization.search.candidates"):
        monkeypatch.setattr(f"onnxopt.{module}.compare_latency", lambda *args, **options: latency("faster"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images without labels."""
    np.savez(tmp_path / "unlabelled.npz", image=np.load(MNIST / "calibration.npz")["image"][:96])
    return tmp_path / "unlabelled.npz"


def stamp(path: Path) -> dict:
    return json.loads(next(p.value for p in onnx.load(path).metadata_props if p.key == "onnxopt"))


def test_what_training_makes_better_is_written_with_its_recipe(data, tmp_path, invoke, steady) -> None:
    output = tmp_path / "o.onnx"
    done = invoke(
        "--json", "prune", MODEL, "-o", output, "--data", data, "--macs", 0.06, "--importance", "l1",
        "--time-limit", 10, "--eval-data", MNIST / "calibration.npz", "--recover", "distill",
    )  # fmt: skip
    assert done.code == 0, done
    said = next(n["verdict"] for n in done.document["notes"] if n["node"].endswith(", distilled"))
    steps = stamp(output)["recipe"]
    assert [step["pass"] for step in steps] == (["prune", "train"] if said == "trained" else ["prune"])
    assert said == "declined" or steps[1]["teachers"] == [content_hash(MODEL)]
    assert (", distilled" in done.document["verdict"]["reason"]) == (said == "trained")


def test_quantize_trains_the_best_form_and_judges_it_as_every_other(data, tmp_path, invoke, steady) -> None:
    done = invoke(
        "--json", "quantize", MODEL, "-o", tmp_path / "q.onnx", "--data", data, "--mode", "static",
        "--calibrator", "minmax", "--recover", "distill", "--time-limit", 10,
    )  # fmt: skip
    assert done.code == 0, done
    trained = [c for c in done.document["data"]["candidates"] if c["name"].endswith(", distilled")]
    assert len(trained) == 1 and trained[0]["outcome"] in ("faster", "inaccurate")
    assert trained[0]["integer_nodes"] > 0


@pytest.mark.parametrize("zeros", [("--sparsity", 0.5), ("--nm", "2:4")])
def test_training_does_not_go_with_zeros_it_would_fill(zeros, data, tmp_path, invoke) -> None:
    output = tmp_path / "o.onnx"
    done = invoke("prune", MODEL, "-o", output, "--data", data, *zeros, "--recover", "distill")
    assert done.code == 2 and "fill the zeros" in done.err and not output.exists()
