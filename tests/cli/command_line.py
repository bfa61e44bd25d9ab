"""What the command-line tests share: the outcome of a call, and what must hold for each."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxopt.measurement.paired import LatencyComparison, Side
from onnxopt.measurement.stats import Decision

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What one call of the command line gave back."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; anything beside it fails the test."""
        return json.loads(self.out)


def assert_explained(outcome: Outcome, code: int, *words: str) -> None:
    """The error has its exit code and the three parts, names ``words``, and shows no traceback."""
    assert outcome.code == code, outcome
    what, where, fix = outcome.err.index("error: "), outcome.err.index("\n  where: "), outcome.err.index("what to do: ")
    assert what < where < fix, outcome.err
    assert len(outcome.err[what + 7 : where].strip()) > 10, outcome.err
    assert len(outcome.err[fix + 12 :].strip()) > 5, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    assert "internal error" not in outcome.err, outcome.err
    for word in words:
        assert word in outcome.err, f"{word!r} is not in:\n{outcome.err}"


def contents(folder: Path) -> dict[str, str]:
    """Every file below ``folder``, hidden ones included, with the hash of its bytes."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def environment(**changes: str) -> dict[str, str]:
    """The environment of a subprocess that imports this very package."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **changes}


def latency(decision: Decision) -> LatencyComparison:
    """A measurement that came out so."""
    side = Side(p25_ms=1.0, p50_ms=1.0, load_ms=1.0, first_run_ms=1.0, peak_rss_mb=1.0)
    return LatencyComparison(decision, 0.5, 0.5, 0.4, 0.6, 0.1, 0.03, None, None, 5, 50, False, side, side, (0.5,))
