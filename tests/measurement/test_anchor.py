from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from onnxopt.measurement.anchor import Anchor, compare_with_anchor, measure_anchor, measure_noise
from onnxopt.measurement.probe import probe_feeds, write_probe
from onnxopt.measurement.start import measure_starts
from onnxopt.measurement.stats import estimate_apart
from onnxopt.run.target import Target

ONE = Target(threads=1)


def test_the_probe_is_the_same_every_time_and_runs(tmp_path: Path) -> None:
    first, second = write_probe(tmp_path / "a.onnx"), write_probe(tmp_path / "b.onnx")
    assert first.read_bytes() == second.read_bytes()
    (found,) = ort.InferenceSession(str(first), providers=["CPUExecutionProvider"]).run(None, dict(probe_feeds()))
    assert np.isfinite(found).all()
    assert found.shape == (98, 256)


def test_four_times_the_work_breaks_a_stored_limit_and_a_quarter_keeps_it(
    models: Path, feeds: list[dict[str, np.ndarray]]
) -> None:
    small, large = models / "chain2.onnx", models / "chain8.onnx"
    stored = measure_anchor(small, feeds, ONE, processes=3)
    assert len(stored.to_self) == len(stored.to_probe) == 3
    assert abs(stored.noise.ratio - 1) < 0.5
    slower = compare_with_anchor(large, feeds, ONE, stored, limit=1.03, max_processes=5)
    assert slower.holds is False
    assert slower.found.ratio > 2
    faster = compare_with_anchor(small, feeds, ONE, measure_anchor(large, feeds, ONE, processes=3), limit=1.03)
    assert faster.holds is True
    assert len(faster.anchor.to_probe) == 5


def test_the_noise_floor_needs_no_probe(models: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    found = measure_noise(models / "chain2.onnx", feeds, ONE, processes=2)
    assert (len(found.to_self), found.to_probe) == (2, ())
    assert found.spread >= 0


def test_an_anchor_keeps_its_session_configuration(models: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    stored = Anchor((0.0, 0.0), (9.0, 9.1), 1, {"session.intra_op.allow_spinning": "0"})
    found = compare_with_anchor(models / "chain2.onnx", feeds, ONE, stored, limit=1.03, min_processes=2)
    assert found.anchor.session_config == stored.session_config
    assert found.holds is True


def test_the_interval_of_unpaired_figures_is_welchs() -> None:
    from scipy import stats

    first, second = [0.10, 0.12, 0.11, 0.14], [0.20, 0.26, 0.21, 0.22, 0.24]
    found = estimate_apart(first, second)
    expected = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.90)
    assert math.log(found.low) == pytest.approx(expected.low)
    assert math.log(found.high) == pytest.approx(expected.high)


def test_each_start_is_a_process_of_its_own(models: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    starts = measure_starts(models / "chain8.onnx", feeds, ONE, processes=2)
    assert len(starts) == 2
    for start in starts:
        assert start.cold_start_ms == start.load_ms + start.first_run_ms > start.first_run_ms > 0
        assert start.peak_rss_mb is None or start.peak_rss_mb > 20
