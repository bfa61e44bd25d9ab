"""The limits of a gate."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from onnxopt.errors import UsageError

__all__ = ["DEFAULT_LATENCY_RATIO", "Limits"]

DEFAULT_LATENCY_RATIO = 1.03


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep; ``None``: not limited. Without any limit the latency ratio must stay below 1.03.

    Attributes:
        latency_ratio: Latency over that of the baseline, to stay below.
        p50_ms: Median latency, to stay below.
        p99_ms: 99th percentile of the latency, to stay below.
        drop: Drop of the metric, whose upper bound may reach this.
        sqnr_db: Signal to quantization noise against the baseline that every output must have.
        size_mb: Size on disk in MB (10^6 bytes), external data included, that may be reached.
        memory_ratio: Peak resident memory over that of the baseline that may be reached.
        cold_start_ms: Creation of the session and the first run together, to stay below.

    Raises:
        UsageError: A limit is no limit, or two contradict each other.
    """

    latency_ratio: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    drop: float | None = None
    sqnr_db: float | None = None
    size_mb: float | None = None
    memory_ratio: float | None = None
    cold_start_ms: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.given().items():
            if not math.isfinite(limit) or (limit <= 0 and name not in ("drop", "sqnr_db")) or limit < 0:
                raise UsageError(
                    f"{limit:g} is no limit for the {_words(name)}",
                    where="the limits of the gate",
                    fix="give a finite positive number (the drop may be 0)",
                )
        if self.p50_ms is not None and self.p99_ms is not None and self.p99_ms < self.p50_ms:
            raise UsageError(
                f"a p99 below {self.p99_ms:g} ms and a p50 below {self.p50_ms:g} ms contradict each other: "
                "a 99th percentile is never below the median, so the limit on the p50 can never matter",
                where="the limits of the gate",
                fix="give a p99 limit above the p50 limit, or one of them",
            )
        if self.p99_ms is not None and self.cold_start_ms is not None and self.cold_start_ms < self.p99_ms:
            raise UsageError(
                f"a cold start below {self.cold_start_ms:g} ms and a p99 of up to {self.p99_ms:g} ms contradict each "
                "other: a cold start includes a run",
                where="the limits of the gate",
                fix="give a cold start limit above the p99 limit, or one of them",
            )

    def given(self) -> dict[str, float]:
        """The limits that were set."""
        return {name: limit for name, limit in asdict(self).items() if limit is not None}

    def or_default(self) -> Limits:
        """These limits, or the one on the latency ratio where there is none."""
        return self if self.given() else Limits(latency_ratio=DEFAULT_LATENCY_RATIO)


def _words(name: str) -> str:
    return name.replace("_", " ")
