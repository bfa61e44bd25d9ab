"""Samples that teach a calibrator nothing: unreadable, constant or repeated ones; inputs and channels that never vary.

The data alone answer this; the model does not run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from onnxopt.core.progress import Progress
from onnxopt.core.query import TensorSpec
from onnxopt.core.report import Note, Table
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError
from onnxopt.quantization.doctor.answer import Answer, Word, worst

__all__ = ["Inventory", "channel_axis", "judge_samples", "take_stock"]

Array: TypeAlias = np.ndarray[Any, Any]

MANY_DUPLICATES = 0.1
SHOWN = 5
"""Samples that are named in a note."""
COLOURS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class InputRange:
    """The values of one input.

    Attributes:
        low: Smallest value of each channel over all samples, ``(channels,)``; one entry where there are no channels.
        high: Largest value of each channel.
        constant: Samples in which all values are equal, although there are several.
        samples: Samples seen.
    """

    low: Array
    high: Array
    constant: int = 0
    samples: int = 0

    @property
    def constant_channels(self) -> tuple[int, ...]:
        """The channels that hold one value in all samples."""
        return tuple(int(i) for i in np.flatnonzero(self.low == self.high))


@dataclass(frozen=True, eq=False)
class Inventory:
    """What the samples are.

    Attributes:
        usable: The samples that can be read.
        broken: Place of a sample in the source, and why it cannot be read.
        constant: Places of the samples all of whose floating-point inputs are constant.
        duplicates: Places of the samples that repeat an earlier one.
        inputs: Name -> range of each numeric input.
    """

    usable: Dataset
    broken: Mapping[int, str] = field(default_factory=dict[int, str])
    constant: tuple[int, ...] = ()
    duplicates: tuple[int, ...] = ()
    inputs: Mapping[str, InputRange] = field(default_factory=dict[str, InputRange])


def channel_axis(shape: Sequence[int]) -> int | None:
    """The axis of the colours of an image batch, NCHW or NHWC; ``None``: it looks like no image."""
    if len(shape) != 4:
        return None
    return 1 if shape[1] in COLOURS else 3 if shape[3] in COLOURS else None


def take_stock(data: Dataset, specs: Sequence[TensorSpec], progress: Progress) -> Inventory:
    """One pass over the samples, each read once; memory grows by one digest a sample."""
    floating = {s.name for s in specs if s.dtype is not None and s.dtype.kind == "f"}
    broken: dict[int, str] = {}
    constant: list[int] = []
    duplicates: list[int] = []
    inputs: dict[str, InputRange] = {}
    seen: set[bytes] = set()
    kept: list[int] = []
    with progress.task("reading the samples", len(data)) as advance:
        for index, place in enumerate(data.order):
            advance(1)
            try:
                feeds = data[index].feeds
            except DataError as error:
                broken[place] = error.what
                continue
            kept.append(index)
            digest = hashlib.sha256()
            varies = False
            for name, array in feeds.items():
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(
                    np.ascontiguousarray(array).tobytes()
                    if array.dtype.kind not in "OU"
                    else repr(array.tolist()).encode()
                )
                if array.dtype.kind in "fiub" and array.size:
                    inputs[name] = _extended(inputs.get(name), array)
                    varies |= name in floating and array.size > 1 and bool(array.min() != array.max())
            if floating and not varies and any(feeds[name].size > 1 for name in floating):
                constant.append(place)
            if digest.digest() in seen:
                duplicates.append(place)
            seen.add(digest.digest())
    return Inventory(data.take(kept), broken, tuple(constant), tuple(duplicates), inputs)


def judge_samples(found: Inventory, data: Dataset) -> Answer:
    """Whether there are samples that are of no use."""
    count, usable = len(data), len(found.usable)
    words: list[tuple[Word, str]] = []
    advice: list[Note] = []
    if found.broken:
        first = next(iter(found.broken.values()))
        words.append(("unusable", f"{len(found.broken)} of {count} samples cannot be used: {first}"))
        advice.append(Note(_named(list(found.broken)), "remove", f"quantize stops at such a sample ({first})"))
    if found.constant:
        blank = len(found.constant)
        if blank == usable:
            text = f"all {blank} samples are blank" if blank > 1 else "the only sample is blank"
            words.append(("unusable", f"{text}: a single value fills {'each' if blank > 1 else 'it'}"))
        else:
            words.append(("doubtful", f"{blank} of {count} samples are blank: a single value fills each"))
        advice.append(
            Note(_named(found.constant), "remove", "all values of the sample are equal: a blank or failed reading")
        )
    repeated = len(found.duplicates)
    if usable > 1 and repeated == usable - 1:
        words.append(("unusable", f"all {usable} samples are the same"))
    elif repeated > MANY_DUPLICATES * usable:
        words.append(("doubtful", f"{repeated} of {usable} repeat an earlier one"))
    if repeated:
        advice.append(
            Note(_named(found.duplicates), "remove", f"repeats an earlier sample: {usable - repeated} differ")
        )
    for name, seen in found.inputs.items():
        silent = seen.constant_channels
        channels = len(seen.low)
        if silent and (channels == 1 or len(silent) == channels) and seen.samples > 1:
            value = f"{seen.low[0]:.4g}" if channels == 1 else "one value a channel"
            advice.append(
                Note(f"input {name!r}", "constant", f"is {value} in all samples: right for an initial state or a mask, "
                     "wrong for anything else that varies in use")
            )  # fmt: skip
        elif silent:
            words.append(("doubtful", f"{len(silent)} of {channels} channels of {name!r} never vary"))
            advice.append(
                Note(f"input {name!r}", "constant", f"channels {_listed(silent)} hold one value in all samples")
            )
    reason = "; ".join(reason for _, reason in words) or (
        f"all {count} samples can be read, differ and vary" if count > 1 else "the only sample can be read and varies"
    )
    word = worst(w for w, _ in words)
    rows = tuple(
        (name, float(r.low.min()), float(r.high.max()), r.constant, len(r.constant_channels), len(r.low))
        for name, r in found.inputs.items()
    )
    return Answer(
        "samples",
        "Is every sample of use?",
        word,
        reason,
        Table("Samples", ("input", "lowest", "highest", "constant samples", "constant channels", "channels"), rows),
        tuple(advice),
        {
            "count": count,
            "broken": {str(place): why for place, why in found.broken.items()},
            "constant": list(found.constant),
            "duplicates": list(found.duplicates),
            "inputs": {
                name: {
                    "low": float(r.low.min()),
                    "high": float(r.high.max()),
                    "constant_samples": r.constant,
                    "constant_channels": list(r.constant_channels),
                }
                for name, r in found.inputs.items()
            },
        },
    )


def _extended(known: InputRange | None, array: Array) -> InputRange:
    axis = channel_axis(array.shape)
    others = None if axis is None else tuple(a for a in range(array.ndim) if a != axis)
    low, high = np.atleast_1d(array.min(axis=others)), np.atleast_1d(array.max(axis=others))
    constant = int(array.size > 1 and low.min() == high.max())
    if known is None or known.low.shape != low.shape:
        return InputRange(low, high, constant, 1)
    return InputRange(
        np.minimum(known.low, low), np.maximum(known.high, high), known.constant + constant, known.samples + 1
    )


def _named(places: Sequence[int]) -> str:
    return f"sample{'s' * (len(places) > 1)} {_listed(places)}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:SHOWN])) + (", ..." if len(numbers) > SHOWN else "")
