"""What a written model says about its origin, in ``metadata_props["onnxopt"]``: the same bytes for the same inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import onnxruntime as ort

from onnxopt import __version__
from onnxopt.core.io import content_hash
from onnxopt.core.query import Model
from onnxopt.core.report import JSON
from onnxopt.data.dataset import Dataset
from onnxopt.frameworks.base import Original
from onnxopt.measurement.env import relevant_isa
from onnxopt.passes.base import Step

__all__ = ["sources", "stamp", "stamp_export"]

KEY = "onnxopt"
EXPORT_KEY = "onnxopt.export"
"""Beside the other, which later commands replace: what a model was exported from stays true."""
SCHEMA = 1


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
        **_origin(content_hash(source), data),
        "earlier_sources": list(sources(model)),
        **({"further_sources_sha256": [content_hash(path) for path in further]} if further else {}),
        "recipe": [{"pass": item.name, **_options(item)} for item in passes],
        "changes": dict(changes),
        "verdict": dict(verdict),
    }
    model.metadata_props[KEY] = json.dumps(document, sort_keys=True)


def stamp_export(
    model: Model, original: Original, weights: str, exporter: str, *, parity: bool, data: Dataset | None
) -> None:
    """Writes framework, its versions, hash of the weights and exporter into the metadata of an exported model.

    No path, user name, host name or time goes in. ``weights``: what ``original.fingerprint()`` gives.
    """
    exported = {
        "schema": SCHEMA,
        "framework": original.framework,
        "versions": dict(original.versions),
        "weights_sha256": weights,
        "exporter": exporter,
    }
    document = {
        **_origin(weights, data),
        "earlier_sources": [],
        "recipe": [{"pass": "export", "exporter": exporter}],
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


def _origin(source: str, data: Dataset | None) -> dict[str, JSON]:
    """What every document says: the hash of the source, the data, the versions and the instruction sets."""
    return {
        "schema": SCHEMA,
        "source_sha256": source,
        "data_fingerprint": None if data is None or data.synthetic else data.fingerprint(),
        "versions": {"onnxopt": __version__, "onnxruntime": ort.__version__, "onnx": version("onnx")},
        "isa": list(relevant_isa()),
    }


def _options(item: Step) -> dict[str, JSON]:
    fields = json.loads(json.dumps(asdict(item), default=str))  # pyright: ignore[reportArgumentType]
    return {key: value for key, value in fields.items() if value not in ([], None)}
