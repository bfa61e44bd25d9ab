"""Statistics on disk: a second run on the same model and data reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxopt.core.cache import read_arrays, write_arrays
from onnxopt.measurement.env import relevant_isa
from onnxopt.quantization.ranges.observers import SIDE, Histogram, MinMax, Statistics
from onnxopt.run.target import Target

__all__ = ["KIND", "key", "read", "write"]

VERSION = 3
"""Grows with every change of what statistics mean."""
KIND = "statistics"
"""Their folder in the user's cache."""


def key(model_hash: str, fingerprint: str, names: Sequence[str], target: Target) -> str:
    """The name of the entry: hex digest of all that the statistics depend on, to the last bit.

    What is exposed, the number of threads and the instruction set decide how the runtime rounds.
    """
    parts = [VERSION, model_hash, fingerprint, list(names), asdict(target), ort.__version__, list(relevant_isa())]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read(folder: Path, key: str, names: Sequence[str], *, histograms: bool) -> dict[str, Statistics] | None:
    """The statistics of ``names``, or ``None`` where there is no sound entry, or none with histograms."""
    try:
        stored = read_arrays(folder, key)
        if stored is None:
            return None
        document = json.loads(str(stored["document"]))
        counts = stored["counts"]
        if histograms and counts.shape != (len(names), 2 * SIDE):
            return None
        return {n: _statistics(document[n], counts[i] if len(counts) else None) for i, n in enumerate(names)}
    except Exception:  # an entry that is not of ours raises almost anything
        return None


def write(folder: Path, key: str, found: Mapping[str, Statistics]) -> None:
    """Keeps the statistics, where that is possible and no better entry is there."""
    histograms = all(s.histogram is not None for s in found.values())
    if read(folder, key, list(found), histograms=histograms) is not None:
        return
    counts = [s.histogram.counts for s in found.values() if s.histogram is not None]
    arrays = {
        "document": np.array(json.dumps({name: _document(s) for name, s in found.items()})),
        "counts": np.stack(counts) if counts and histograms else np.zeros(0, np.int64),
    }
    write_arrays(folder, key, arrays, compressed=True)


def _document(found: Statistics) -> dict[str, Any]:
    return {
        "range": [found.range.low.hex(), found.range.high.hex(), found.range.finite],
        "samples": found.samples,
        "sums": [hex(found.lows), hex(found.highs)],
        "exponent": None if found.histogram is None else found.histogram.exponent,
    }


def _statistics(document: Mapping[str, Any], counts: np.ndarray[Any, Any] | None) -> Statistics:
    low, high, finite = document["range"]
    lows, highs = (int(total, 16) for total in document["sums"])
    exponent = document["exponent"]
    histogram = None if exponent is None or counts is None else Histogram(int(exponent), counts.astype(np.int64))
    seen = MinMax(float.fromhex(low), float.fromhex(high), bool(finite))
    return Statistics(seen, int(document["samples"]), lows, highs, histogram)
