"""The answer to one question about calibration data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from onnxopt.core.report import JSON, Note, Table

__all__ = ["Answer", "Word", "samples_in_words", "worst"]

Word: TypeAlias = Literal["fine", "unknown", "doubtful", "unusable"]
"""``unusable``: calibrating on these data gives a wrong or no model; ``doubtful``: look before you rely on them."""
ORDER: tuple[Word, ...] = ("unusable", "doubtful", "unknown", "fine")


@dataclass(frozen=True)
class Answer:
    """What was found about one question.

    Attributes:
        key: Its name in the JSON report.
        question: As people ask it.
        word: The verdict.
        reason: Why, in one sentence.
        table: The figures; ``None``: there are none.
        advice: What to do about it, with what it concerns.
        data: The figures for machines.
    """

    key: str
    question: str
    word: Word
    reason: str
    table: Table | None = None
    advice: tuple[Note, ...] = ()
    data: dict[str, JSON] = field(default_factory=dict[str, JSON])


def samples_in_words(count: int) -> str:
    """``one sample``, ``2 samples``."""
    return "one sample" if count == 1 else f"{count} samples"


def worst(words: Iterable[Word]) -> Word:
    """The most serious of them."""
    found: Word = "fine"
    for word in words:
        if ORDER.index(word) < ORDER.index(found):
            found = word
    return found
