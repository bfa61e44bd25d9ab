"""Models in series: outputs of each feed the next one, with glue where type or shape differ by what cannot be meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Drawing
from onnxopt.core.edit import Editor
from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model, TensorSpec, opset, output_specs
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.errors import ModelError, UsageError, nearest
from onnxopt.merging.adapt import Adapter
from onnxopt.merging.align import InputMap
from onnxopt.merging.combine import Joined, clean, graft_all, name_output, spec_value
from onnxopt.merging.member import Member
from onnxopt.run.session import Feeds, Session, open_session
from onnxopt.run.target import Target

__all__ = ["Chain", "chain", "join_chain", "run_chain", "stage_files"]


@dataclass(frozen=True)
class Chain:
    """Models in series.

    Attributes:
        members: In order; ``feeds`` names an output of the model in front, or an input of the chain.
        inputs: Of the chain.
        handed: For each member its inputs that the model in front feeds.
        notes: What was matched otherwise than by name.
    """

    members: tuple[Member, ...]
    inputs: tuple[TensorSpec, ...]
    handed: tuple[frozenset[str], ...]
    notes: tuple[Note, ...] = field(default=())


def chain(members: Sequence[Member], input_map: InputMap, adapters: Mapping[int, Adapter]) -> Chain:
    """Matches outputs of each model with inputs of the next: by the map, by name, or the first output with the first.

    Raises:
        UsageError: The map names what there is not.
        ModelError: Nothing of a model feeds the next, or types and shapes do not fit.
    """
    inputs = {spec.name: spec for spec in members[0].inputs}
    placed = [replace(members[0], feeds={name: name for name in inputs}, adapters=_own(members[0], adapters.get(0)))]
    handed: list[frozenset[str]] = [frozenset()]
    notes: list[Note] = []
    for index, member in enumerate(members[1:], 1):
        front = {spec.name: spec for spec in output_specs(placed[-1].model)}
        given = dict(input_map.get(index, {}))
        names = [spec.name for spec in member.inputs]
        for name, source in given.items():
            if name not in names:
                raise UsageError(f"{member.title} has no input {name!r}", where="--input-map", fix=nearest(name, names))
            if source not in front and source not in inputs:
                known = [*front, *inputs]
                raise UsageError(
                    f"nothing in front of {member.title} is called {source!r}",
                    where="--input-map",
                    fix=nearest(source, known),
                )
        feeds = given | {name: name for name in names if name in front and name not in given}
        if not any(source in front for source in feeds.values()):
            first = next((name for name in names if name not in feeds), None)
            if first is None or (len(names) > 1 and len(front) > 1):
                raise ModelError(
                    f"no output of {placed[-1].title} ({', '.join(front)}) feeds an input of {member.title} "
                    f"({', '.join(names)})",
                    where=member.title,
                    fix=f"say it with --input-map '{member.title}:INPUT={next(iter(front))}'",
                )
            feeds[first] = next(iter(front))
            notes.append(
                Note(member.title, "matched", f"input {first} takes output {feeds[first]} of {placed[-1].title}")
            )
        own = frozenset(name for name, source in feeds.items() if source in front)
        for spec in member.inputs:
            source = feeds.setdefault(spec.name, spec.name)
            if spec.name in own:
                continue
            if source in inputs and (inputs[source].dtype, len(inputs[source].shape or ())) != (
                spec.dtype,
                len(spec.shape or ()),
            ):
                raise ModelError(
                    f"two models take an input {source!r} of different kinds: {inputs[source]} and {spec}",
                    where=member.title,
                    fix=f"give it another name with --input-map '{member.title}:{spec.name}=NAME'",
                )
            inputs.setdefault(source, replace(spec, name=source))
        changed = _own(member, adapters.get(index))
        placed.append(replace(member, feeds=feeds, adapters=changed))
        handed.append(own)
        for spec in member.inputs:
            if spec.name in own and spec.name not in changed:
                glue(front[feeds[spec.name]], spec, member.title)
    return Chain(tuple(placed), tuple(inputs.values()), tuple(handed), tuple(notes))


def _own(member: Member, adapter: Adapter | None) -> dict[str, Adapter]:
    if adapter is None:
        return {}
    images = [s for s in member.inputs if len(s.shape or ()) > 1] or list(member.inputs)
    adapter.check(images[0], f"--preprocess, {member.title}")
    return {images[0].name: adapter}


def glue(front: TensorSpec, spec: TensorSpec, title: str) -> tuple[int, ...] | None:
    """The shape (-1: the batch) that an output must get to be the input ``spec``; ``None``: it fits as it is.

    Raises:
        ModelError: It cannot be made to fit.
    """
    if front.dtype is None or spec.dtype is None or (front.dtype.kind == "U") != (spec.dtype.kind == "U"):
        raise _unfit(front, spec, title)
    if front.shape is None or spec.shape is None:
        return None
    sizes = [(a, b) for a, b in zip(front.shape, spec.shape, strict=False) if isinstance(a, int) and isinstance(b, int)]
    if len(front.shape) == len(spec.shape) and all(a == b for a, b in sizes):
        return None
    given, wanted = front.shape[1:], spec.shape[1:]
    if front.shape and spec.shape and all(isinstance(n, int) for n in (*given, *wanted)):
        rest = tuple(n for n in wanted if isinstance(n, int))
        if prod(n for n in given if isinstance(n, int)) == prod(rest):
            return (-1, *rest)
    raise _unfit(front, spec, title)


def _unfit(front: TensorSpec, spec: TensorSpec, title: str) -> ModelError:
    return ModelError(
        f"output {front} does not fit input {spec} of {title}",
        where=f"input {spec.name!r} of {title}",
        fix="give --preprocess for that model (layout, size, scale), or choose what feeds it with --input-map",
    )


def join_chain(chained: Chain) -> Model:
    """The chain as one model, with the outputs of its last member."""
    inputs = [spec_value(spec) for spec in chained.inputs]
    version = opset(chained.members[0].model)
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": version}, name="series")
    model = ir.Model(graph, ir_version=max(m.model.ir_version for m in chained.members), producer_name="onnxopt")
    editor = Editor(model)
    shared = {value.name or "": value for value in inputs}
    front: dict[str, ir.Value] = {}
    specs: dict[str, TensorSpec] = {}
    for member, handed in zip(chained.members, chained.handed, strict=True):
        own = dict(shared)
        drawing = Drawing(editor, graph, "glue")
        feeds = dict(member.feeds)
        for spec in member.inputs:
            if spec.name in handed:
                source = feeds[spec.name]
                adapted = spec.name in member.adapters
                feeds[spec.name] = f"{source} of the model in front"
                own[feeds[spec.name]] = _glued(drawing, front[source], specs[source], spec, member.title, adapted)
        front = graft_all(model, editor, replace(member, feeds=feeds), own)
        specs = {spec.name: spec for spec in output_specs(member.model)}
    joined = Joined(model, editor, ())
    for name, value in front.items():
        name_output(joined, value, specs[name])
    return clean(model)


def _glued(
    drawing: Drawing, value: ir.Value, front: TensorSpec, spec: TensorSpec, title: str, adapted: bool
) -> ir.Value:
    found = value
    if adapted:
        return found
    shape = glue(front, spec, title)
    if shape is not None:
        found = drawing.op("Reshape", found, drawing.constant(list(shape)))
    if front.dtype != spec.dtype and spec.dtype is not None:
        found = drawing.op("Cast", found, to=int(ir.DataType.from_numpy(spec.dtype)))
    return found


def run_chain(
    chained: Chain, sessions: Sequence[Session], feeds: Feeds
) -> tuple[list[dict[str, Array]], dict[str, Array]]:
    """What separate sessions do, one after the other: the feeds of each, and the outputs of the last."""
    front: dict[str, Array] = {}
    specs: dict[str, TensorSpec] = {}
    fed: list[dict[str, Array]] = []
    for member, handed, session in zip(chained.members, chained.handed, sessions, strict=True):
        own: dict[str, Array] = {}
        for spec in member.inputs:
            source = member.feeds[spec.name]
            array = front[source] if spec.name in handed else feeds[source]
            if spec.name in member.adapters:
                array = member.adapters[spec.name].compute(array, spec)
            elif spec.name in handed:
                shape = glue(specs[source], spec, member.title)
                array = np.asarray(array if shape is None else array.reshape(shape)).astype(spec.dtype)
            own[spec.name] = array
        fed.append(own)
        front = session.run(own)
        specs = {spec.name: spec for spec in output_specs(member.model)}
    return fed, front


def stage_files(chained: Chain, folder: Path, target: Target) -> tuple[tuple[Path, ...], tuple[Session, ...]]:
    """One file a member whose inputs have names of their own, and its session as given."""
    files: list[Path] = []
    sessions: list[Session] = []
    for index, member in enumerate(chained.members):
        sessions.append(open_session(member.path, target))
        copy = member.model.clone()
        editor = Editor(copy)
        for value in copy.graph.inputs:
            value.name = editor.fresh_name(f"stage{index}_{value.name}")
        files.append(folder / f"stage{index}.onnx")
        save_scratch(copy, files[-1])
    return tuple(files), tuple(sessions)
