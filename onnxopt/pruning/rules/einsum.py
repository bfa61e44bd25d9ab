"""Einsum: axes with the same letter go together."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.pruning.channels import Axis
from onnxopt.pruning.rules.elementwise import read
from onnxopt.pruning.walk import Declined, Linear, Walk

__all__ = ["einsum"]


def einsum(node: ir.Node, walk: Walk) -> None:
    """Ties letters; what is summed over products of computed values is never cut, as for MatMul."""
    equation = (node.attributes.get_string("equation") or "").replace(" ", "")
    if "..." in equation or "->" not in equation:
        raise Declined("its equation has an ellipsis or no result")
    left, result = equation.split("->")
    terms = left.split(",")
    values = [read(node, i) for i in range(len(terms))]
    if any(len(set(term)) != len(term) for term in (*terms, result)):
        raise Declined("its equation takes a diagonal")
    found: dict[str, list[tuple[ir.Value, int]]] = {}
    for term, value in zip(terms, values, strict=True):
        for place, letter in enumerate(term):
            found.setdefault(letter, []).append((value, place))
    axes: dict[str, Axis] = {}
    for letter, places in found.items():
        has_constant = any(walk.is_constant(value) for value, _ in places)
        if letter not in result and (not has_constant or len(places) == 1):
            for value, place in places:
                walk.pin_axes(value, [place], "Einsum sums over it")
            axes[letter] = None
            continue
        joined = walk.axis(*places[0])
        for value, place in places[1:]:
            joined = walk.tie(joined, walk.axis(value, place), "Einsum joins it with what is never cut")
        axes[letter] = joined
    walk.put(node.outputs[0], [axes.get(letter) for letter in result])
    _note_linear(node, terms, result, values, walk)


def _note_linear(node: ir.Node, terms: list[str], result: str, values: list[ir.Value], walk: Walk) -> None:
    """``...k,kn->...n`` is a MatMul."""
    if len(terms) != 2 or walk.is_constant(values[0]) or not walk.is_constant(values[1]) or len(terms[1]) != 2:
        return
    inner, outer = terms[1]
    if terms[0][-1] == inner and result == terms[0][:-1] + outer:
        walk.linears.append(Linear(node, values[0], len(terms[0]) - 1, values[1], 0, 1, None))
