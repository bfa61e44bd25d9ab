"""One version of each operator set for all members.

Where no operator that a member uses changed between two versions, only the number changes: that holds in bodies and
functions too, and for models of any size. Otherwise ``onnx.version_converter`` converts the main graph; it knows
neither bodies nor functions, so a member whose bodies would need it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx import defs

from onnxopt.core.opset import raise_opset
from onnxopt.core.query import Model, graphs, nodes, opset
from onnxopt.core.report import Note
from onnxopt.errors import ModelError
from onnxopt.merging.member import Member
from onnxopt.passes.rewrite.inline import InlineFunctions

__all__ = ["same_opsets"]

MINIMUM = 13
"""The head of an ensemble is drawn with operators as they are since this version."""
STANDARD = frozenset({"", "ai.onnx.ml"})


def same_opsets(members: Sequence[Member]) -> tuple[tuple[Member, ...], tuple[Note, ...]]:
    """The members with equal versions of all operator sets, and what was converted.

    Raises:
        ModelError: A member cannot be converted, or two need different versions of a custom domain.
    """
    notes: list[Note] = []
    wanted = max([MINIMUM, *(opset(m.model) for m in members)])
    converted: list[Member] = []
    for member in members:
        found = opset(member.model)
        model = member.model if found == wanted or not found else _raised(member, wanted)
        if found not in (wanted, 0):
            notes.append(Note(member.title, "converted", f"from opset {found} to {wanted}"))
        converted.append(replace(member, model=model))
    for domain in sorted({d for m in converted for d in _imports(m.model)} - {""}):
        versions = {m.title: _imports(m.model)[domain] for m in converted if domain in _imports(m.model)}
        newest = max(versions.values())
        for member in converted:
            old = _imports(member.model).get(domain, newest)
            if old != newest and not (domain in STANDARD and _is_unchanged(member.model, domain, old, newest)):
                stated = ", ".join(f"{title}: {version}" for title, version in versions.items())
                raise ModelError(
                    f"the members need different versions of the operator domain {domain!r} ({stated})",
                    where=member.title,
                    fix="export them with the same version of that domain",
                )
            if old != newest:
                _relabel(member.model, domain, newest)
                notes.append(Note(member.title, "converted", f"{domain} from version {old} to {newest}"))
    return tuple(converted), tuple(notes)


def _raised(member: Member, wanted: int) -> Model:
    """A copy of the member's model at opset ``wanted``.

    Raises:
        ModelError: There is no way to convert it.
    """
    model, found = member.model.clone(), opset(member.model)
    if _is_unchanged(model, "", found, wanted):
        _relabel(model, "", wanted)
        return model
    model = InlineFunctions().inline(model).model
    inner = [n for g in graphs(model) if g is not model.graph for n in g if not _is_same(n.op_type, "", found, wanted)]
    try:
        if inner and any(not n.domain for n in inner):
            raise ModelError(
                f"{inner[0].op_type} inside a body or function changed between opset {found} and {wanted}, and bodies "
                "cannot be converted",
                where=member.title,
                fix=f"export the model again with opset {wanted}",
            )
        return raise_opset(model, wanted)
    except ModelError as error:
        raise ModelError(
            f"{error.what}; the other members use opset {wanted}",
            where=member.title,
            fix=f"export this model with opset {wanted}, or the others with opset {found}",
        ) from error


def _imports(model: Model) -> dict[str, int]:
    """Versions of all domains that the model or its functions use."""
    local = {function.domain for function in model.functions.values()}
    found = {domain: version for domain, version in model.graph.opset_imports.items() if domain not in local}
    for function in model.functions.values():
        for domain, version in function.opset_imports.items():
            if domain not in local:
                found.setdefault(domain, version)
    return found


def _relabel(model: Model, domain: str, version: int) -> None:
    for graph in (model.graph, *model.functions.values()):
        if domain in graph.opset_imports:
            graph.opset_imports[domain] = version


def _is_unchanged(model: Model, domain: str, old: int, new: int) -> bool:
    """Whether each operator of the domain that the model uses is the same in both versions."""
    if any(f.opset_imports.get(domain, old) != old for f in model.functions.values()):
        return False
    return all(_is_same(node.op_type, domain, old, new) for node in nodes(model) if node.domain == domain)


def _is_same(op_type: str, domain: str, old: int, new: int) -> bool:
    try:
        first, second = (defs.get_schema(op_type, max_inclusive_version=v, domain=domain) for v in (old, new))
    except Exception:  # onnx.defs.SchemaError: an operator that onnx does not know
        return False
    return first.since_version == second.since_version
