"""A baseline file is read with suspicion: absurd figures are refused rather than compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxopt.commands.baseline import read_baseline
from onnxopt.core.report import Report, Status, Verdict
from onnxopt.errors import InputError
from onnxopt.measurement.probe import PROBE_VERSION


def _stored(path: Path, logs: list[Any], peak: Any) -> Path:
    anchor = {"to_self": [0.01, 0.0], "to_probe": logs, "probe": PROBE_VERSION, "session_config": {}}
    row = {"model": "m.onnx", "error": None, "measurement": {"peak_rss_mb": peak}, "anchor": anchor}
    model = {"file": "m.onnx", "sha256": "0" * 64, "inputs": [], "outputs": []}
    data = {"rows": [row], "models": {"m.onnx": model}, "environment": {}, "data": {}}
    report = Report("bench", Verdict(Status.PASS, "measured"), {})
    path.write_text(json.dumps(json.loads(report.to_json()) | {"data": data}))
    return path


def test_sound_figures_are_read(tmp_path: Path) -> None:
    stored = read_baseline(_stored(tmp_path / "b.json", [-1, 0.5], 60))
    assert stored.anchor.to_probe == (-1.0, 0.5)
    assert stored.peak_rss_mb == 60.0


@pytest.mark.parametrize("log", [float("nan"), float("inf"), "0.1", True, None])
def test_a_ratio_that_is_no_finite_number_is_refused(tmp_path: Path, log: Any) -> None:
    with pytest.raises(InputError, match="damaged"):
        read_baseline(_stored(tmp_path / "b.json", [log, 0.5], 60))


@pytest.mark.parametrize("peak", [0, -5, float("nan"), "60"])
def test_a_memory_that_cannot_be_is_refused(tmp_path: Path, peak: Any) -> None:
    with pytest.raises(InputError, match="damaged"):
        read_baseline(_stored(tmp_path / "b.json", [0.1, 0.5], peak))


def test_deep_nesting_is_no_internal_error(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text("[" * 200_000)
    with pytest.raises(InputError, match="damaged"):
        read_baseline(path)
