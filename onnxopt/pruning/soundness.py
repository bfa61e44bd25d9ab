"""Groups whose cut changes more than zeroing them does are left whole: a rule has read more into a shape than there is.

Sizes that happen to be equal in the one call that was observed (a length and a number of heads) can mislead a rule.
Every group is therefore cut as far as it may be, all at once, and compared on inputs of all shapes at hand; when that
fails, each group by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxopt.core.report import Note
from onnxopt.errors import VerificationError
from onnxopt.pruning.pruner import Pruner
from onnxopt.run.session import Feeds

__all__ = ["sound"]


def sound(pruner: Pruner, feeds: Sequence[Feeds]) -> tuple[Pruner, tuple[Note, ...]]:
    """The pruner with the groups that fail left whole, and why.

    Args:
        pruner: The model.
        feeds: Inputs to compare on.

    Raises:
        VerificationError: Groups fail together that do not fail alone.
    """
    if not _problem(pruner, feeds):
        return pruner, ()
    failing: dict[int, str] = {}
    groups = pruner.structure.groups
    with pruner.ctx.progress.task("checking groups", len(groups)) as advance:
        for index in range(len(groups)):
            others = [i for i in range(len(groups)) if i != index]
            alone = replace(pruner, choices=pruner.choices.whole(others))
            problem = _problem(alone, feeds)
            if problem:
                failing[index] = problem
            advance(1)
    kept = replace(pruner, choices=pruner.choices.whole(failing))
    kept.check(kept.choices.least, feeds)
    return kept, tuple(Note(groups[i].name, "kept", f"cutting it is not exact: {why}") for i, why in failing.items())


def _problem(tried: Pruner, feeds: Sequence[Feeds]) -> str:
    try:
        tried.check(tried.choices.least, feeds)
    except VerificationError as error:
        return error.what
    return ""
