"""Random graphs, of which a random share of every group is cut: the outputs are those with the same channels zeroed.

``ONNXOPT_FUZZ=300`` (``make fuzz``) tries as many new graphs instead of the same few.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, settings

from onnxopt.core.io import load, save
from onnxopt.core.query import Model
from onnxopt.pruning.structure import Structure, analyse
from onnxopt.pruning.surgery import cut, zeroed
from onnxopt.run.session import open_session
from onnxopt.run.tap import observed_shapes
from onnxopt.run.target import Target
from tests.pruning import random_images, random_sequences, random_steps
from tests.pruning.random_graphs import Case, graphs

COUNT = int(os.environ.get("ONNXOPT_FUZZ", "0"))
TARGET = Target(threads=1)
LARGEST = 1e4
"""Outputs of larger magnitude say nothing."""


def test_cut_equals_zeroed(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=COUNT or 60,
        derandomize=not COUNT,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if COUNT else [Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(graphs(random_images.STEPS + random_sequences.STEPS + random_steps.STEPS))
    def run(case: Case) -> None:
        check(case, tmp_path, seen)

    run()
    print(dict(seen.most_common()))
    assert seen["graphs"] >= (COUNT or 60) / 2
    assert seen["with groups"] >= 0.75 * seen["graphs"]
    assert seen["cut twice"] >= 0.5 * seen["graphs"]
    assert seen["too large"] <= 0.02 * seen["outputs"]
    assert len([name for name in seen if name.startswith("op ")]) >= 30, "operators whose outputs became smaller"


def check(case: Case, folder: Path, seen: Counter[str]) -> None:
    """Cuts a graph, and what is left of it once more."""
    rng = np.random.default_rng(case.seed)
    onnx.checker.check_model(case.proto, full_check=True)
    onnx.save(case.proto, folder / "model.onnx")
    model = load(folder / "model.onnx")
    seen["graphs"] += 1
    for turn in ("with groups", "cut twice"):
        shapes = observed_shapes(model, case.feeds, TARGET, folder)
        structure = analyse(model, shapes)
        if not structure.groups:
            return
        small = _cut(model, shapes, structure, case, rng, folder, seen)
        seen[turn] += 1
        seen["groups"] += len(structure.groups)
        after = observed_shapes(small, case.feeds, TARGET, folder)
        for node in model.graph:
            name = node.outputs[0].name or ""
            if name in after and name in shapes and after[name] != shapes[name]:
                seen[f"op {node.op_type}"] += 1
        model = small


def _cut(
    model: Model,
    shapes: dict[str, tuple[int, ...]],
    structure: Structure,
    case: Case,
    rng: np.random.Generator,
    folder: Path,
    seen: Counter[str],
) -> Model:
    dead: set[int] = set()
    for group in structure.groups:
        dead.update(rng.choice(group.units, int(rng.integers(1, len(group.units))), replace=False).tolist())
    small, twin = folder / "small.onnx", folder / "twin.onnx"
    save(cut(model, shapes, dead), small)
    save(zeroed(model, structure, dead), twin)
    onnx.checker.check_model(small, full_check=True)
    expected = open_session(twin, TARGET).run(case.feeds)
    found = open_session(small, TARGET).run(case.feeds)
    for name, array in expected.items():
        size = float(np.abs(array).max())
        assert np.isfinite(array).all(), f"{name} is not finite with the channels zeroed"
        assert found[name].shape == array.shape
        if size < LARGEST:
            assert np.abs(found[name] - array).max() <= 1e-5 * max(size, 1e-3), f"{name} differs, of {size}"
            seen["outputs"] += 1
        else:
            seen["too large"] += 1
    return load(small)
