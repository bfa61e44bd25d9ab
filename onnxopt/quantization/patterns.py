"""Which nodes a user means by shell-style patterns of node names, or by op types."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxopt.core.query import label
from onnxopt.errors import UsageError, nearest

__all__ = ["KEPT", "excluded", "left_float", "matching"]

KEPT = "integers take longer here, or cost more accuracy than they gain"


def excluded(
    candidates: Iterable[ir.Node], patterns: Sequence[str], *, strict: bool = True, option: str = "--exclude"
) -> frozenset[ir.Node]:
    """The nodes whose name or op type matches one of the shell-style ``patterns``.

    Raises:
        UsageError: A pattern matches no node, and ``strict`` demands that each does.
    """
    listed = list(candidates)
    found: set[ir.Node] = set()
    for pattern in patterns:
        nodes = matching(listed, pattern)
        if not nodes and strict:
            raise UsageError(
                f"the pattern {pattern!r} matches no node",
                where=option,
                fix=nearest(pattern, [label(n) for n in listed] + [n.op_type for n in listed]),
            )
        found.update(nodes)
    return frozenset(found)


def matching(candidates: Iterable[ir.Node], pattern: str) -> list[ir.Node]:
    """The nodes whose name or op type matches a shell-style ``pattern``."""
    return [n for n in candidates if fnmatch.fnmatchcase(label(n), pattern) or n.op_type == pattern]


def left_float(candidates: Iterable[ir.Node], exclude: Sequence[str], keep_float: Sequence[str]) -> dict[ir.Node, str]:
    """The nodes that are to stay float, with the reason: those of the user's patterns, then those with such labels."""
    listed, kept = list(candidates), frozenset(keep_float)
    found = dict.fromkeys(excluded(listed, exclude, strict=False), "excluded")
    return found | {n: KEPT for n in listed if n not in found and label(n) in kept}
