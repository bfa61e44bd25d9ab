"""What a report says about nodes that run on another provider than the one that was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxopt.commands.common import as_json
from onnxopt.core.report import Note, Report
from onnxopt.measurement.profile import ASYNCHRONOUS, profile
from onnxopt.run.placement import WHOLE_GRAPH
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.target import Target, provider

__all__ = ["Fallback", "find_fallback", "with_fallback"]


@dataclass(frozen=True)
class Fallback:
    """Nodes of a model that run elsewhere.

    Attributes:
        nodes: Full name of each provider that runs some, with their number; ``None``: all of them.
        time_share: Their share of the time of all nodes.
        declined: Why the provider that was asked for was not created at all; ``None``: it was.
        is_launch_time: Whether the share is of the time to launch kernels, which run on while the next is launched.
    """

    nodes: Mapping[str, int | None]
    time_share: float
    declined: str | None
    is_launch_time: bool

    def __str__(self) -> str:
        counts = ", ".join(f"{_count(number)} on {name}" for name, number in self.nodes.items())
        text = f"{counts}, {100 * self.time_share:.0f} % of the node time"
        if self.is_launch_time:
            text += " (to launch them, not as they run on the device)"
        return text if self.declined is None else f"{text}; the provider was not created: {self.declined}"


def find_fallback(path: Path, feeds: Sequence[Feeds], target: Target) -> Fallback | None:
    """Which nodes of a model run elsewhere, and how much of the time that is; ``None``: there are none.

    Raises:
        OnnxoptError: The model does not run on ``target``.
    """
    session = open_session(path, target)
    if not session.fallback:
        return None
    counts: dict[str, int | None] = dict(Counter(node.provider for node in session.fallback))
    counts |= {node.provider: None for node in session.fallback if node.op == WHOLE_GRAPH}
    wanted = provider(target.provider)
    share = 1.0 - profile(path, feeds, target).provider_shares.get(wanted.name, 0.0)
    is_launch_time = wanted.short in ASYNCHRONOUS and session.declined is None
    return Fallback(counts, share, session.declined, is_launch_time)


def with_fallback(report: Report, models: Mapping[str, Path], feeds: Sequence[Feeds], target: Target) -> Report:
    """The report with a note, and figures, for each model that falls back; the same where that is not allowed."""
    if not target.allow_fallback or provider(target.provider).short == "cpu":
        return report
    found = {name: fallback for name, path in models.items() if (fallback := find_fallback(path, feeds, target))}
    before = report.data.get("fallback")
    known = before if isinstance(before, dict) else {}
    return replace(
        report,
        data={**report.data, "fallback": {**known, **{name: as_json(fallback) for name, fallback in found.items()}}},
        notes=(*report.notes, *(Note(name, "fallback", str(fallback)) for name, fallback in found.items())),
    )


def _count(number: int | None) -> str:
    return "all nodes" if number is None else f"{number} node" + ("" if number == 1 else "s")
