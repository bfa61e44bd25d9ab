"""How much a search may spend: evaluations on all judging samples, and time."""

from __future__ import annotations

import time

__all__ = ["MOST_EVALS", "Budget"]

MOST_EVALS = 40


class Budget:
    """Counts what a search spends; mutable because it does.

    Args:
        max_evals: Evaluations of a model on the judging samples.
        time_limit: Seconds from now; ``None``: no limit.
    """

    def __init__(self, max_evals: int = MOST_EVALS, time_limit: float | None = None) -> None:
        self.max_evals = max_evals
        self.time_limit = time_limit
        self.evals = 0
        self._start = time.monotonic()

    def spend(self) -> None:
        """One more evaluation."""
        self.evals += 1

    @property
    def seconds(self) -> float:
        """Time since the search began."""
        return time.monotonic() - self._start

    def spent(self, share: float = 1.0) -> str | None:
        """What has run out when only ``share`` of the time may be used; ``None``: nothing has."""
        if self.evals >= self.max_evals:
            return f"all {self.max_evals} evaluations are spent (--max-evals)"
        if self.time_limit is not None and self.seconds > share * self.time_limit:
            part = "" if share >= 1 else f"{share:.0%} of "
            return f"{part}the time limit of {self.time_limit:g} s is spent (--time-limit)"
        return None
