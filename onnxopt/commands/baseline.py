"""A baseline that was stored: the report of ``bench``, read back with suspicion."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from onnxopt.commands.provenance import sources
from onnxopt.core.io import content_hash
from onnxopt.core.query import Model, TensorSpec, input_specs, output_specs
from onnxopt.core.report import JSON, Report
from onnxopt.data.dataset import Dataset
from onnxopt.errors import InputError, ModelError
from onnxopt.measurement.anchor import Anchor
from onnxopt.measurement.env import machine_differences
from onnxopt.measurement.probe import PROBE_VERSION

__all__ = ["StoredBaseline", "describe_specs", "is_stored", "read_baseline"]

FIX = "write it again with `onnxopt bench REF.onnx --data D --report BASELINE.json`"


@dataclass(frozen=True)
class StoredBaseline:
    """What ``bench`` once measured of a reference model.

    Attributes:
        path: The JSON file.
        file: Name of the model file.
        sha256: Its content hash.
        inputs: Name, type and shape of each input.
        outputs: The same of each output.
        environment: The environment block.
        data: Fingerprint and kind of the data.
        peak_rss_mb: Peak memory.
        anchor: Its ratios to itself and to the probe.
    """

    path: Path
    file: str
    sha256: str
    inputs: Sequence[JSON]
    outputs: Sequence[JSON]
    environment: Mapping[str, JSON]
    data: Mapping[str, JSON]
    peak_rss_mb: float | None
    anchor: Anchor

    def check_machine(self, now: Mapping[str, JSON]) -> None:
        """Refuses another machine, runtime or target.

        Raises:
            InputError: Something differs that decides latencies.
        """
        differences = machine_differences(self.environment, now)
        if differences:
            raise InputError(
                f"the baseline was measured under other conditions: {'; '.join(differences)}",
                where=str(self.path),
                fix="use the same options and machine, measure again with --rebaseline (the reference model must lie "
                "beside the baseline), or give the reference model itself: --baseline REF.onnx",
            )

    def check_model(self, candidate: Path, model: Model) -> None:
        """Refuses a candidate that belongs to another model.

        Raises:
            InputError: Inputs, outputs, or the origin that the candidate names do not fit.
        """
        for kind, then, now in (
            ("inputs", self.inputs, describe_specs(input_specs(model))),
            ("outputs", self.outputs, describe_specs(output_specs(model))),
        ):
            if not _fit(then, now):
                raise self._other_model(candidate, f"its {kind} were {_names(then)}, now they are {_names(now)}")
        known = sources(model)
        if known and self.sha256 not in (*known, content_hash(candidate)):
            raise self._other_model(
                candidate, f"the candidate says it was made from {known[0][:12]}, the baseline is of {self.sha256[:12]}"
            )

    def check_data(self, data: Dataset) -> None:
        """Refuses other data.

        Raises:
            InputError: The fingerprint differs.
        """
        if self.data.get("fingerprint") != data.fingerprint():
            raise InputError(
                "the baseline was measured on other data",
                where=f"{self.path}; now: {data.source}",
                fix="give the same --data, --samples and --seed as then, or --rebaseline",
            )

    def reference(self, candidate: Path) -> Path | None:
        """The reference model, where it lies beside the baseline.

        Raises:
            InputError: A file of its name lies there that is another model.
        """
        beside = self.path.parent / self.file
        if not beside.is_file():
            return None
        if content_hash(beside) == self.sha256:
            return beside
        if beside.resolve() == candidate.resolve():
            return None  # a new version under the old name: what the gate is for
        raise InputError(
            f"the baseline is of another model than the {self.file} beside it "
            f"(hash {self.sha256[:12]} then, {content_hash(beside)[:12]} now)",
            where=str(self.path),
            fix=f"{FIX}, or give the reference model itself: --baseline {self.file}",
        )

    def _other_model(self, candidate: Path, why: str) -> InputError:
        return InputError(
            f"the baseline is of another model: {why}",
            where=f"{candidate.name} against {self.path}",
            fix="give the baseline of the model that the candidate comes from",
        )


def is_stored(path: Path) -> bool:
    """Whether a baseline is a JSON file rather than a model.

    Raises:
        ModelError: It cannot be read.
    """
    if path.suffix.lower() == ".json":
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(64).lstrip().startswith(b"{")
    except OSError as error:
        raise ModelError(
            f"the baseline cannot be read: {error.strerror}", where=str(path), fix="check the path and the permissions"
        ) from error


def read_baseline(path: Path) -> StoredBaseline:
    """The baseline in a JSON file.

    Raises:
        InputError: It cannot be read, is damaged, or is not what ``bench`` writes for one model in one configuration.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(f"the baseline cannot be read: {reason}", where=str(path), fix=FIX) from error
    try:
        report = Report.from_json(text)
    except RecursionError as error:
        raise InputError("the baseline is damaged: it is nested too deeply", where=str(path), fix=FIX) from error
    except InputError as error:
        raise InputError(f"the baseline is damaged: {error.what}", where=str(path), fix=FIX) from error
    if report.command != "bench":
        raise InputError(f"this is a report of `{report.command}`, not of `bench`", where=str(path), fix=FIX)
    try:
        return _parse(path, json.loads(json.dumps(report.data)))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"the baseline is damaged or lacks what a gate needs ({type(error).__name__}: {error})"
        raise InputError(what, where=str(path), fix=FIX) from error


def describe_specs(specs: Sequence[TensorSpec]) -> list[JSON]:
    """Name, type and shape of each tensor, as JSON."""
    return [[spec.name, "non-tensor" if spec.dtype is None else spec.dtype.name, _shape(spec.shape)] for spec in specs]


def _shape(shape: tuple[int | str | None, ...] | None) -> JSON:
    return None if shape is None else list(shape)


def _parse(path: Path, data: dict[str, Any]) -> StoredBaseline:
    rows = cast(list[dict[str, Any]], data["rows"])
    if len(rows) != 1 or len(data["models"]) != 1:
        raise ValueError(f"{len(rows)} measurements; a baseline has one model in one configuration")
    row = rows[0]
    if row.get("error") is not None:
        raise ValueError(f"the measurement failed: {row['error']['what']}")
    model = data["models"][row["model"]]
    anchor = row["anchor"]
    logs = {key: tuple(_finite(v) for v in anchor[key]) for key in ("to_self", "to_probe")}
    if min(map(len, logs.values())) < 2:
        raise ValueError("too few processes")
    if anchor["probe"] != PROBE_VERSION:
        raise ValueError(f"probe {anchor['probe']}, expected {PROBE_VERSION}")
    peak = row["measurement"]["peak_rss_mb"]
    if peak is not None and _finite(peak) <= 0:
        raise ValueError(f"a peak memory of {peak} MiB")
    return StoredBaseline(
        path=path,
        file=Path(str(model["file"])).name,
        sha256=str(model["sha256"]),
        inputs=list(model["inputs"]),
        outputs=list(model["outputs"]),
        environment=dict(data["environment"]),
        data=dict(data["data"]),
        peak_rss_mb=None if peak is None else float(peak),
        anchor=Anchor(logs["to_self"], logs["to_probe"], PROBE_VERSION, dict(anchor["session_config"])),
    )


def _finite(value: object) -> float:
    """A number of the file; JSON as Python reads it also has NaN and Infinity, which no limit would ever catch."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _fit(then: Sequence[Any], now: Sequence[Any]) -> bool:
    """Whether names, types and sizes agree; a symbolic size fits any."""
    first, second = ({name: (dtype, shape) for name, dtype, shape in specs} for specs in (then, now))
    if first.keys() != second.keys():
        return False
    for name, (dtype, shape) in first.items():
        other_dtype, other = second[name]
        if dtype != other_dtype:
            return False
        if shape is None or other is None:
            continue
        if len(shape) != len(other) or any(
            isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(shape, other, strict=False)
        ):
            return False
    return True


def _names(specs: Sequence[Any]) -> str:
    return ", ".join(f"{name} {dtype}{shape}" for name, dtype, shape in specs)
