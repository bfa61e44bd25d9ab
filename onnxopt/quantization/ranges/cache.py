"""Statistics on disk, addressed by what they were made from: a second run on the same model and data reads them.

An entry is one ``.npz`` file that appears complete or not at all. A cache that cannot be written, or an entry that
cannot be read, costs a pass over the data and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxopt.core.atomic import write_atomic
from onnxopt.errors import OutputError
from onnxopt.measurement.env import relevant_isa
from onnxopt.quantization.ranges.observers import SIDE, Histogram, MinMax, Statistics
from onnxopt.run.target import Target

__all__ = ["key", "read", "user_folder", "write"]

VERSION = 2
"""Grows with every change of what statistics mean."""
VARIABLE = "ONNXOPT_CACHE"


def user_folder() -> tuple[Path, ...]:
    """The user's cache: ``$ONNXOPT_CACHE`` (none when that is empty), else ``onnxopt`` in the system's cache folder."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return (Path(named) / "statistics",) if named else ()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return ((Path(base) if base else Path.home() / ".cache") / "onnxopt" / "statistics",)
    except RuntimeError:  # no home
        return ()


def key(model_hash: str, fingerprint: str, names: Sequence[str], target: Target) -> str:
    """The name of the entry: hex digest of all that the statistics depend on, to the last bit.

    What is exposed, the number of threads and the instruction set decide how the runtime rounds.
    """
    parts = [VERSION, model_hash, fingerprint, list(names), asdict(target), ort.__version__, list(relevant_isa())]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read(folder: Path, key: str, names: Sequence[str], *, histograms: bool) -> dict[str, Statistics] | None:
    """The statistics of ``names``, or ``None`` where there is no sound entry, or none with histograms."""
    try:
        payload = io.BytesIO((folder / f"{key}.npz").read_bytes())  # numpy leaves a damaged file open
        with np.load(payload, allow_pickle=False) as stored:
            document = json.loads(str(stored["document"]))
            counts = stored["counts"]
            if histograms and counts.shape != (len(names), 2 * SIDE):
                return None
            return {n: _statistics(document[n], counts[i] if len(counts) else None) for i, n in enumerate(names)}
    except Exception:  # a damaged archive raises almost anything
        return None


def write(folder: Path, key: str, found: Mapping[str, Statistics]) -> None:
    """Keeps the statistics, where that is possible and no better entry is there."""
    path = folder / f"{key}.npz"
    histograms = all(s.histogram is not None for s in found.values())
    if read(folder, key, list(found), histograms=histograms) is not None:
        return
    counts = [s.histogram.counts for s in found.values() if s.histogram is not None]
    payload = io.BytesIO()
    np.savez_compressed(
        payload,
        document=np.array(json.dumps({name: _document(s) for name, s in found.items()})),
        counts=np.stack(counts) if counts and histograms else np.zeros(0, np.int64),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, payload.getvalue())
    except (OSError, OutputError):
        return


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
