"""Every model that onnx ships with its expected outputs must still give them after the passes of ``optimize``
and the rewrites.

Of the 2024 models in onnx 1.23, ONNX Runtime 1.32 on a CPU runs 1728 and gets them right itself; passes change 297.
The others need types that numpy lacks, or operators and old opsets that the runtime has no kernels for.
The floors keep the suite from silently becoming empty when a dependency changes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from onnxopt.core.io import load, save
from onnxopt.passes.base import Context
from onnxopt.passes.registry import OPTIMIZE, REWRITES, create
from tests.suites.backend_cases import KINDS, Case, cases, difference, run

FLOORS = {"node": (1500, 200), "simple": (15, 0), "pytorch-converted": (50, 0), "pytorch-operator": (20, 0)}
"""Models that ran and models that a pass changed, by kind."""


def optimize(case: Case, source: Path, target: Path) -> Counter[str]:
    model, changes = load(source), Counter[str]()
    ctx = Context(workdir=target.parent)
    for _ in range(2):
        for name in (*OPTIMIZE, *REWRITES):
            result = create(name).run(model, ctx)
            model = result.model
            changes[name] += result.changes
    save(model, target)
    return changes


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_outputs_survive(kind: str, tmp_path: Path) -> None:
    ran, changed, failures = 0, Counter[str](), list[str]()
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    for case in cases(kind):
        onnx.save(case.model, source)
        try:
            if difference(case, run(source, case)) is not None:
                continue
        except Exception:  # ONNX Runtime has no kernel for it, or Python cannot feed it
            continue
        ran += 1
        try:
            changes = optimize(case, source, target)
            problem = difference(case, run(target, case))
        except Exception as error:
            changes, problem = Counter[str](), repr(error)[:300]
        changed.update(name for name, count in changes.items() if count)
        changed["any"] += any(changes.values())
        if problem is not None:
            failures.append(f"{case.name}: {problem} (changed by {dict(+changes)})")
    print(f"{kind}: {ran} ran, changed by pass: {dict(changed)}")
    assert not failures, "\n".join(failures)
    floor_ran, floor_changed = FLOORS[kind]
    assert ran >= floor_ran and changed["any"] >= floor_changed
