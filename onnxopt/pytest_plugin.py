"""pytest plugin: the fixture ``onnxopt_gate``, a gate on two models as a test.

pytest loads this module wherever onnxopt is installed, so it imports nothing heavy; the gate comes with its first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from onnxopt.errors import OnnxoptError, UsageError, nearest, printable

if TYPE_CHECKING:
    from onnxopt.commands.common import Source
    from onnxopt.core.report import Report
    from onnxopt.run.target import Target

__all__ = ["Gate", "onnxopt_gate"]

Inconclusive = Literal["skip", "pass", "fail"]
INCONCLUSIVE = ("skip", "pass", "fail")


@dataclass(frozen=True)
class Gate:
    """What the fixture ``onnxopt_gate`` is: call it with two models.

    Attributes:
        properties: Those of the test in pytest's own report (``--junit-xml``); the measured values are added.
    """

    properties: list[tuple[str, object]]

    def __call__(
        self,
        candidate: str | Path,
        baseline: str | Path,
        *,
        data: str | Path | Source | None = None,
        latency_ratio: float | None = 1.03,
        p50_ms: float | None = None,
        p99_ms: float | None = None,
        drop: float | None = None,
        sqnr_db: float | None = None,
        size_mb: float | None = None,
        memory_ratio: float | None = None,
        cold_start_ms: float | None = None,
        metric: str | None = None,
        output: str | None = None,
        target: Target | None = None,
        inconclusive: Inconclusive = "skip",
    ) -> Report:
        """Fails the test when the candidate breaks a limit, with the table of checks as the message.

        Args:
            candidate: Model file in question.
            baseline: Model file to compare with, or a ``baseline.json``.
            data: Like ``--data``, or a ``Source`` where the data need more options.
            latency_ratio: Like ``--max-latency-ratio``.
            p50_ms: Like ``--max-p50-ms``.
            p99_ms: Like ``--max-p99-ms``.
            drop: Like ``--max-drop``.
            sqnr_db: Like ``--min-sqnr-db``.
            size_mb: Like ``--max-size-mb``.
            memory_ratio: Like ``--max-memory-ratio``.
            cold_start_ms: Like ``--max-cold-start-ms``.
            metric: Like ``--metric``.
            output: Like ``--output-name``.
            target: Where the models run; default: the CPU.
            inconclusive: What becomes of a test that could not be decided.

        Returns:
            The report of the gate.

        Raises:
            OnnxoptError: A model, the data or an option cannot be used.
        """
        __tracebackhide__ = True
        if inconclusive not in INCONCLUSIVE:
            raise UsageError(
                f"unknown outcome {inconclusive!r}", where="inconclusive=", fix=nearest(inconclusive, INCONCLUSIVE)
            )
        from onnxopt.commands.common import Source
        from onnxopt.commands.gate import gate
        from onnxopt.commands.limits import Limits

        try:
            report = gate(
                Path(candidate),
                Path(baseline),
                Limits(
                    latency_ratio=latency_ratio,
                    p50_ms=p50_ms,
                    p99_ms=p99_ms,
                    drop=drop,
                    sqnr_db=sqnr_db,
                    size_mb=size_mb,
                    memory_ratio=memory_ratio,
                    cold_start_ms=cold_start_ms,
                ),
                data if isinstance(data, Source) or data is None else Source(path=str(data)),
                metric=metric,
                output=output,
                target=target,
            )
        except OnnxoptError as error:  # raised anew: how onnxopt found out is of no use to who wrote the test
            raise error.with_traceback(None) from None
        self._record(report)
        self._judge(report, inconclusive)
        return report

    def _record(self, report: Report) -> None:
        from onnxopt.report.checks import checks_of

        for check in checks_of(report):
            for suffix, value in (("", check.measured), (" low", check.low), (" high", check.high)):
                if value is not None:
                    self.properties.append((f"onnxopt {printable(check.name)}{suffix}", value))

    def _judge(self, report: Report, inconclusive: Inconclusive) -> None:
        __tracebackhide__ = True
        from onnxopt.core.report import Status
        from onnxopt.report.checks import checks_text

        status = report.verdict.status
        if status is Status.FAIL or (status is Status.INCONCLUSIVE and inconclusive == "fail"):
            pytest.fail(f"{printable(report.verdict.reason)}\n{checks_text(report)}", pytrace=False)
        if status is Status.INCONCLUSIVE and inconclusive == "skip":
            pytest.skip(f"undecided: {printable(report.verdict.reason)}")


@pytest.fixture
def onnxopt_gate(request: pytest.FixtureRequest) -> Gate:
    """Call it with a candidate and a baseline: the test fails when the candidate breaks a limit."""
    # What record_property fills too; that one warns under the default junit_family, and some make warnings errors.
    return Gate(request.node.user_properties)
