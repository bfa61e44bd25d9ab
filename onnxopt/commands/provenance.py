"""What a written model says about its origin, in ``metadata_props["onnxopt"]``: the same bytes for the same inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import onnxruntime as ort

from onnxopt import __version__
from onnxopt.core.io import content_hash
from onnxopt.core.query import Model
from onnxopt.core.report import JSON
from onnxopt.data.dataset import Dataset
from onnxopt.frameworks.base import Original
from onnxopt.measurement.env import relevant_isa

__all__ = ["Step", "sources", "stamp", "stamp_export"]

KEY = "onnxopt"
EXPORT_KEY = "onnxopt.export"
"""Beside the other, which later commands replace: what a model was exported from stays true."""
SCHEMA = 1


class Step(Protocol):
    """A part of a recipe: a frozen dataclass with a name, for instance a pass."""

    name: ClassVar[str]


def stamp(
    model: Model,
    source: Path,
    passes: Sequence[Step],
    *,
    changes: Mapping[str, int],
    verdict: Mapping[str, JSON],
    data: Dataset | None,
    further: Sequence[Path] = (),
) -> None:
    """Writes source hash, data fingerprint, recipe, versions, ISA, changes and verdict into the model's metadata.

    No path, user name, host name, time or latency goes in. ``further``: more sources, of a model made of several.
    """
    document = {
        "schema": SCHEMA,
        "source_sha256": content_hash(source),
        "earlier_sources": list(sources(model)),
        **({"further_sources_sha256": [content_hash(path) for path in further]} if further else {}),
        "data_fingerprint": None if data is None or data.synthetic else data.fingerprint(),
        "recipe": [{"pass": item.name, **_options(item)} for item in passes],
        "versions": _versions(),
        "isa": list(relevant_isa()),
        "changes": dict(changes),
        "verdict": dict(verdict),
    }
    model.metadata_props[KEY] = json.dumps(document, sort_keys=True)


def stamp_export(model: Model, original: Original, exporter: str, *, parity: bool, data: Dataset | None) -> None:
    """Writes framework, its versions, hash of the weights and exporter into the metadata of an exported model.

    No path, user name, host name or time goes in.
    """
    weights = original.fingerprint()
    exported = {
        "schema": SCHEMA,
        "framework": original.framework,
        "versions": dict(original.versions),
        "weights_sha256": weights,
        "exporter": exporter,
    }
    document = {
        "schema": SCHEMA,
        "source_sha256": weights,
        "earlier_sources": [],
        "data_fingerprint": None if data is None else data.fingerprint(),
        "recipe": [{"pass": "export", "exporter": exporter}],
        "versions": _versions(),
        "isa": list(relevant_isa()),
        "changes": {},
        "verdict": {"parity": parity},
    }
    model.metadata_props[EXPORT_KEY] = json.dumps(exported, sort_keys=True)
    model.metadata_props[KEY] = json.dumps(document, sort_keys=True)


def sources(model: Model) -> tuple[str, ...]:
    """Hashes of the files that a model came from, as its metadata say: its source first, then the source of that."""
    try:
        document = cast(dict[str, Any], json.loads(model.metadata_props[KEY]))
        return (str(document["source_sha256"]), *map(str, document.get("earlier_sources", ())))
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def _versions() -> dict[str, str]:
    return {"onnxopt": __version__, "onnxruntime": ort.__version__, "onnx": version("onnx")}


def _options(item: Step) -> dict[str, JSON]:
    fields = json.loads(json.dumps(asdict(item), default=str))  # pyright: ignore[reportArgumentType]
    return {key: value for key, value in fields.items() if value not in ([], None)}
