"""``merge --strategy serial``: models in series as one file, equal to sessions that hand arrays on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.commands.common import Source, as_json, data_notes, first_feeds, latency_table, open_fitting, size_table
from onnxopt.commands.provenance import stamp
from onnxopt.core.io import load, save
from onnxopt.core.progress import Progress
from onnxopt.core.report import Note, Report, Status, Verdict
from onnxopt.data.dataset import Dataset
from onnxopt.errors import VerificationError
from onnxopt.measurement.paired import compare_latency
from onnxopt.merging.adapt import Adapter
from onnxopt.merging.align import InputMap
from onnxopt.merging.member import Member, prepare_stage, titles
from onnxopt.merging.opsets import same_opsets
from onnxopt.merging.serial import Chain, chain, join_chain, run_chain, stage_files
from onnxopt.merging.strategies import Serial
from onnxopt.merging.written import TOLERANCE, TOLERANCES, Difference, save_checked
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.target import Target

__all__ = ["merge_serial"]

VERIFIED = 16


def merge_serial(
    paths: Sequence[Path],
    final: Path | None,
    source: Source,
    folder: Path,
    *,
    input_map: InputMap,
    adapters: Mapping[int, Adapter],
    target: Target,
    force: bool,
    progress: Progress,
) -> Report:
    """The report on models in series; the file is written when it is equal to, and not slower than, their sessions.

    Raises:
        ModelError: A model cannot be used, or does not fit the one in front of it.
        VerificationError: The file is not equal to the sessions one after the other.
    """
    members: list[Member] = []
    for title, path in zip(titles(paths), paths, strict=True):
        model = load(path)
        open_session(path, target)
        members.append(prepare_stage(title, path, model))
    same, notes = same_opsets(members)
    chained = chain(same, input_map, adapters)
    model, path = join_chain(chained), folder / "series.onnx"
    save_checked(model, path, target)
    data = open_fitting(source, path, chained.inputs, target)
    files, sessions = stage_files(chained, folder, target)
    feeds, difference = _verified(chained, path, data, sessions, target)
    few = first_feeds(data)
    latency = compare_latency(files, path, feeds[: len(few)], target, seed=source.seed, progress=progress)
    text = (
        f"{len(members)} models in series, equal to their sessions within {difference.max_abs:.2g}, "
        f"{1 / latency.ratio:.2f}x as fast as these (ratio {latency.low:.3f} .. {latency.high:.3f})"
    )
    verdict = Verdict(Status.PASS, text)
    if latency.decision == "slower" and not force:
        verdict = Verdict(Status.FAIL, f"one file is slower than separate sessions: {text}; nothing is written")
    is_written = verdict.status is Status.PASS and final is not None
    if is_written and final is not None:
        first, *further = (member.path for member in chained.members)
        facts = {"verified_samples": difference.samples, "equal_to_separate_sessions": True}
        stamp(model, first, [Serial()], changes={}, verdict={**facts}, data=data, further=further)
        save(model, final)
    names = {member.title: member.path for member in chained.members}
    return Report(
        "merge",
        verdict,
        {
            "strategy": "serial",
            "members": [member.title for member in chained.members],
            "difference": as_json(difference),
            "latency": as_json(latency),
            "synthetic": data.synthetic,
            "written": is_written,
        },
        (
            size_table({**names, "series": path}),
            latency_table(
                {"series": latency}, f"Against {len(names)} separate sessions, interleaved in fresh processes"
            ),
        ),
        (*notes, *chained.notes, *_dropped(chained), *data_notes(data)),
    )


def _verified(
    chained: Chain, path: Path, data: Dataset, sessions: Sequence[Any], target: Target
) -> tuple[list[Feeds], Difference]:
    """Feeds for the file and for the sessions alike, and how far their outputs are apart.

    Raises:
        VerificationError: Further than rounding.
    """
    session = open_session(path, target)
    feeds: list[Feeds] = []
    largest = 0.0
    for sample in islice(data, VERIFIED):
        fed, expected = run_chain(chained, sessions, sample.feeds)
        own = {f"stage{k}_{name}": array for k, stage in enumerate(fed) for name, array in stage.items()}
        feeds.append({**sample.feeds, **own})
        found = session.run(sample.feeds)
        for (name, wanted), value in zip(expected.items(), found.values(), strict=True):
            if wanted.dtype.kind not in "fV":
                gap, limit = float(not np.array_equal(wanted, value)), 0.0
            else:
                magnitude = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)))
                limit = TOLERANCES.get(wanted.dtype.name, TOLERANCE) * magnitude
                same = wanted.shape == value.shape
                gap = float(np.nan_to_num(np.abs(wanted - value)).max(initial=0.0)) if same else np.inf
            if gap > limit:
                raise VerificationError(
                    f"the merged model differs from its members one after the other by {gap:.3g}, allowed {limit:.3g}",
                    where=f"output {name!r}",
                    fix="nothing was written; report the members that show it",
                )
            largest = max(largest, gap)
    return feeds, Difference(len(feeds), largest)


def _dropped(chained: Chain) -> list[Note]:
    notes: list[Note] = []
    for member, follower, handed in zip(chained.members, chained.members[1:], chained.handed[1:], strict=False):
        used = {follower.feeds[name] for name in handed}
        lost = [value.name or "" for value in member.model.graph.outputs if value.name not in used]
        if lost:
            notes.append(Note(member.title, "dropped", f"nothing takes its output {', '.join(lost)}"))
    return notes
