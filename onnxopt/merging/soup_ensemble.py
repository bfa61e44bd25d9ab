"""The soup as a file: chosen on one half of the labelled data, judged on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxopt.core.io import save_scratch
from onnxopt.core.progress import Progress
from onnxopt.core.query import Model
from onnxopt.core.report import JSON, Note
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset, split
from onnxopt.errors import DataError, ModelError
from onnxopt.evaluate.metrics import Metric, RowMetric
from onnxopt.merging.align import Alignment
from onnxopt.merging.calls import Calls, run_members
from onnxopt.merging.combine import finish, join
from onnxopt.merging.ensemble import Ensemble
from onnxopt.merging.fit import Setting
from onnxopt.merging.forms import forms_for
from onnxopt.merging.judge import judge
from onnxopt.merging.member import Member
from onnxopt.merging.points import points_of
from onnxopt.merging.soup import Score, choose, mean_model, require_alike
from onnxopt.merging.strategies import Soup
from onnxopt.merging.trunk import Shared
from onnxopt.merging.written import Difference, output_spec, save_checked, verify_outputs
from onnxopt.run.target import Target

__all__ = ["cook"]


@dataclass(frozen=True)
class _Place:
    """Takes one of the outputs; the last is that of the soup, run beside the members."""

    index: int

    def compute(self, outputs: Sequence[Array]) -> Array:
        """It."""
        return outputs[self.index]


def cook(
    strategy: Soup,
    setting: Setting,
    alignment: Alignment,
    judged_on: Dataset | None,
    *,
    data: Dataset,
    target: Target,
    folder: Path,
    progress: Progress,
) -> Ensemble:
    """The soup of the members.

    Raises:
        DataError: There are no labels, or too few.
        ModelError: The members have no common graph, or are no fine-tunes of one parent.
    """
    metric = setting.metric
    if metric is None or len(data) < 4:
        raise DataError(
            "a soup is chosen and judged on labelled data, and there are none"
            if metric is None
            else "4 samples are too few",
            where=data.source,
            fix="add labels (--labels KEY), or use --strategy average",
        )
    if any(member.adapters for member in alignment.members):
        raise ModelError(
            "members with preprocessing of their own are no fine-tunes of one parent",
            where="--preprocess",
            fix="use --strategy weighted",
        )
    require_alike(alignment.members)
    chosen_on, rest = (
        (data, judged_on) if judged_on is not None else split(data, calibration=len(data) // 2, seed=setting.seed)
    )
    with progress.task("choosing the soup", None):
        recipe = choose(
            alignment.members,
            lambda model: _score(alignment, model, chosen_on, setting, metric, target, folder),
            higher_is_better=metric.higher_is_better,
            relative=metric.relative,
        )
    member = replace(alignment.members[recipe.keep[0]], model=mean_model(alignment.members, recipe.keep))
    path = folder / "soup.onnx"
    joined = join(alignment, [member])
    model = finish(joined, joined.values[0], output_spec(alignment))
    save_checked(model, path, target)
    table = _beside(alignment, path, rest, target, folder, progress)
    rival = recipe.keep[0]
    judged = judge(lambda _: _Place(-1), table.only(rival), metric, setting.seed, held_back=table.only(rival, -1))
    each = judge(lambda _: _Place(-1), table.only(rival), metric, setting.seed, held_back=table).members[:-1]
    judgement = replace(judged, way="those that did not choose the soup", members=each)
    difference = _checked(path, rest, table, target)
    notes = (*recipe.notes, Note("soup", "made", "of " + ", ".join(alignment.members[k].title for k in recipe.keep)))
    facts: dict[str, JSON] = {
        "soup": [alignment.members[k].title for k in recipe.keep],
        "chosen_by": list(recipe.scores),
    }
    return Ensemble(strategy, model, path, recipe.keep, difference, Shared(0, 0, 0), judgement, facts, notes)


def _beside(alignment: Alignment, path: Path, data: Dataset, target: Target, folder: Path, progress: Progress) -> Calls:
    """The answers of all members, and then those of the soup."""
    own = Member(
        "soup",
        path,
        join(alignment, [alignment.members[0]]).model,
        output_spec(alignment).name,
        {spec.name: spec.name for spec in alignment.inputs},
    )
    return run_members([*alignment.members, own], data, target, folder, progress)


def _checked(path: Path, data: Dataset, table: Calls, target: Target) -> Difference:
    return verify_outputs(path, data, [call[-1].astype(np.float64) for call in table.outputs[:16]], target)


def _score(
    alignment: Alignment,
    model: Model,
    data: Dataset,
    setting: Setting,
    metric: Metric,
    target: Target,
    folder: Path,
) -> Score:
    path = folder / "tried.onnx"
    save_scratch(model, path)
    first = alignment.members[0]
    member = replace(first, path=path, is_changed=False)
    calls = run_members([member], data, target, folder)
    outputs, labels = [call[0] for call in calls.outputs], calls.labels or ()
    forms, _ = forms_for(setting.task, "auto", setting.found[:1], setting.shapes[:1])
    points = points_of(calls, forms, setting.task)
    error = float(np.square(points.outputs[:, 0] - points.truth).sum(axis=1).mean())
    if isinstance(metric, RowMetric):
        rows = [metric.rows(y, t).sum(axis=0) for y, t in zip(outputs, labels, strict=True)]
        return Score(float(metric.score(np.sum(rows, axis=0))), error)
    return Score(metric.over(np.concatenate(outputs), np.concatenate(labels)), error)
