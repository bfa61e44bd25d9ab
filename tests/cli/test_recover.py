"""``prune`` and ``quantize`` with ``--recover distill``: trained on what the input model answers, kept when better."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt import Source, quantize
from onnxopt.commands.prune import prune
from onnxopt.core.io import content_hash
from onnxopt.core.progress import Advance
from onnxopt.errors import DataError
from tests.cli.command_line import REPOSITORY, latency
from tests.cli.sample_models import mlp_data

MNIST = REPOSITORY / "calibration_data" / "mnist"
MODEL = MNIST / "mnist_cnn.onnx"


class Watched:
    """Progress that remembers the tasks: what, and how long."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int | None]] = []

    @contextmanager
    def task(self, description: str, total: int | None) -> Generator[Advance]:
        self.tasks.append((description, total))
        yield lambda steps: None

    def note(self, text: str) -> None:
        del text


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Latency measurements that take no time, for tests of everything else: the models that are measured."""
    measured: list[Path] = []

    def fast(reference: Path, candidate: Path, *args: object, **options: object):
        measured.append(candidate)
        return latency("faster")

    for name, module in list(sys.modules.items()):
        if name.startswith("onnxopt.") and hasattr(module, "compare_latency"):
            monkeypatch.setattr(module, "compare_latency", fast)
    return measured


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
        "--time-limit", 8, "--eval-data", MNIST / "calibration.npz", "--recover", "distill",
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


@pytest.mark.parametrize(
    ("recover", "fitted", "trained", "name"),
    [("distill", 512, 788, "dynamic programming, distilled"), (None, 788, 0, "dynamic programming")],
)
def test_pruning_is_searched_on_some_samples_trained_on_all_and_measured_once(
    recover, fitted, trained, name, tmp_path, mlp_model, steady
) -> None:
    data = Source(str(mlp_data(tmp_path / "many.npz", samples=900)))
    progress = Watched()
    report = prune(mlp_model, tmp_path / "o.onnx", data, params=0.3, recover=recover, progress=progress)
    assert report.exit_code == 0 and report.verdict.reason.startswith(f"{name}: ")
    assert report.data["fitted_samples"] == fitted
    assert {total for task, total in progress.tasks if task == "observing what layers read"} == {fitted}
    assert sum(total or 0 for task, total in progress.tasks if task.startswith("answers of ")) == trained
    assert len(steady) == 1, "training changes no shape: what was measured before holds"
    table = next(t for t in report.tables if t.title.startswith("Against the input"))
    assert [row[0] for row in table.rows] == [name]


@pytest.mark.parametrize("command", ["prune", "quantize"])
@pytest.mark.parametrize(
    ("samples", "split", "said"),
    [
        (3, True, "3 given, 1 left for training after 2 held back to judge by, 4 given ones are needed"),
        (1, True, "1 given, 1 left for training after 0 held back to judge by, 4 given ones are needed"),
        (1, False, "1 given, 1 left for training after 0 held back to judge by, 2 given ones are needed"),
    ],
)
def test_too_few_samples_to_train_on_are_told_before_the_search(
    command, samples, split, said, tmp_path, mlp_model
) -> None:
    data = Source(str(mlp_data(tmp_path / "few.npz", samples=samples)))
    others = None if split else str(mlp_data(tmp_path / "others.npz"))
    output, progress = tmp_path / "o.onnx", Watched()
    with pytest.raises(DataError, match=said):
        if command == "prune":
            prune(mlp_model, output, data, params=0.6, recover="distill", eval_data=others, progress=progress)
        else:
            quantize(mlp_model, output, data, recover="distill", eval_data=others, progress=progress)
    assert not progress.tasks and not output.exists()


def test_as_many_samples_as_are_asked_for_are_enough(tmp_path, mlp_model, steady) -> None:
    report = quantize(
        mlp_model, tmp_path / "o.onnx", Source(str(mlp_data(tmp_path / "four.npz", samples=4))),
        mode="static", calibrator="minmax", max_drop=1.0, recover="distill",
    )  # fmt: skip
    assert [c["outcome"] for c in report.data["candidates"] if c["name"].endswith(", distilled")] == ["faster"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--mode", "dynamic", "--data", "mlp.npz", "--max-drop", 1, "--max-evals", 1), "--max-evals"),
        (("--mode", "static", "--data", "mlp.npz", "--max-drop", 1, "--time-limit", 0.001), "--time-limit"),
        (("--mode", "dynamic", "--max-drop", 1), "give --data"),
        (("--mode", "static", "--data", "many.npz", "--max-drop", 0, "--target", "avx2"), "CPUs without VNNI"),
    ],
)
def test_a_form_that_is_not_trained_is_told_with_the_reason(
    options, why, tmp_path, mlp_model, mlp_npz, invoke, steady, monkeypatch
) -> None:
    mlp_data(tmp_path / "many.npz", samples=400)
    monkeypatch.chdir(tmp_path)
    arguments = ["quantize", mlp_model, "-o", "o.onnx", "--recover", "distill", *options]
    done = invoke("--json", *arguments)
    left = [c for c in done.document["data"]["candidates"] if c["name"].endswith(", distilled")]
    assert [c["outcome"] for c in left] == ["not tried"] and why in left[0]["reason"], done
    table = invoke(*arguments).out
    assert "not tried" in table and "distilled" in table


def test_where_no_form_is_worth_training_the_report_says_so(tmp_path, mlp_model, mlp_npz, invoke, monkeypatch) -> None:
    monkeypatch.setattr(
        "onnxopt.quantization.search.candidates.compare_latency", lambda *args, **options: latency("slower")
    )
    arguments = ["quantize", mlp_model, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--mode", "dynamic"]
    arguments += ["--max-drop", 1, "--recover", "distill"]
    notes = invoke("--json", *arguments).document["notes"]
    assert [n["node"] for n in notes if n["verdict"] == "not tried" and "nothing to train" in n["reason"]] == [
        "distill"
    ]
    assert "nothing to train" in invoke(*arguments).out
