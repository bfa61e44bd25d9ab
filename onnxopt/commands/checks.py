"""What a gate checks, and the verdict over all checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxopt.core.report import Status, Verdict

__all__ = ["Check", "conclude"]


@dataclass(frozen=True)
class Check:
    """One limit, and what was measured. A gate's report holds them as ``data["checks"]``.

    Attributes:
        name: What is limited: ``"latency ratio"``, ``"p99"``, ``"accuracy drop"``, ...
        status: Kept, broken, or undecided.
        measured: The point estimate; ``None``: there is none.
        low: Lower end of its interval, where there is one.
        high: Upper end of its interval, where there is one.
        limit: The limit.
        unit: ``""`` for ratios and shares, else ``"ms"``, ``"MB"``, ``"dB"``.
        reason: One sentence: what was compared with what, and how it came out.
    """

    name: str
    status: Status
    measured: float | None
    low: float | None
    high: float | None
    limit: float
    unit: str
    reason: str


def conclude(checks: Sequence[Check], candidate: str) -> Verdict:
    """Fails when a check fails, else is inconclusive when one is; the reason names those."""
    for status in (Status.FAIL, Status.INCONCLUSIVE):
        found = [check for check in checks if check.status is status]
        if found:
            return Verdict(status, f"{candidate}: " + "; ".join(check.reason for check in found))
    kept = checks[0].reason if len(checks) == 1 else f"all {len(checks)} limits are kept"
    return Verdict(Status.PASS, f"{candidate}: {kept}")
