"""Which calibrators would ruin the model: each is tried, and judged by the error at the output."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxopt.core.report import Note, Table
from onnxopt.quantization.doctor.answer import Answer
from onnxopt.quantization.ranges.calibrators import Calibrator

__all__ = ["judge_calibrators"]

QUESTION = "Does every calibrator work?"
COLLAPSED_DB = 10.0
"""A calibrator that loses more than this against the best must not be used here."""
LOST_DB = 6.0
"""Below this the error is above half the size of the output, whatever the calibrator."""


def judge_calibrators(found: Mapping[Calibrator, float], default: Calibrator) -> Answer:
    """Whether one loses the output; a question of the data only where the default does, or all do.

    Args:
        found: SQNR in dB at the output, by calibrator.
        default: The one that is used when nothing else is asked for and none is better.
    """
    if not found:
        return Answer("calibrators", QUESTION, "unknown", "nothing can be quantized, or the output holds no numbers")
    best = max(found, key=found.__getitem__)
    bad = {name: db for name, db in found.items() if db < found[best] - COLLAPSED_DB}
    rows = tuple((name, db, db - found[best] if math.isfinite(found[best]) else None) for name, db in found.items())
    table = Table(
        "Calibrators, judged on samples that they have not seen", ("calibrator", "SQNR dB", "to the best"), rows
    )
    advice = [
        Note(f"--calibrator {name}", "avoid", f"{db:.1f} dB at the output, {best} {found[best]:.1f} dB")
        for name, db in bad.items()
    ]
    if found[best] < LOST_DB:
        why = f"even {best} leaves {found[best]:.1f} dB: the whole model on integers is lost"
        advice.append(
            Note("calibrators", "advice", f"{why}; see which layers are to blame: onnxopt inspect --quantize")
        )
    reason = f"none loses more than {COLLAPSED_DB:g} dB against the best ({best}, {found[best]:.1f} dB)"
    if bad:
        reason = (
            f"{best} does ({found[best]:.1f} dB); {', '.join(bad)} would lose more than {COLLAPSED_DB:g} dB against it"
        )
    return Answer(
        "calibrators",
        QUESTION,
        "doubtful" if default in bad or found[best] < LOST_DB else "fine",
        reason,
        table,
        tuple(advice),
        {
            "best": best,
            "default": default,
            "collapsed": list(bad),
            "sqnr_db": {name: db if math.isfinite(db) else None for name, db in found.items()},
        },
    )
