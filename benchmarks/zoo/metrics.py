"""Scores of the zoo's tasks: `function(outputs, labels) -> float`, higher is better.

`outputs` is the first model output concatenated over all evaluation samples, `labels` the label of each row.
"""

import numpy as np

PITCH_BINS = 360
CENTS_PER_BIN = 20.0
FIRST_BIN_CENTS = 1997.3794084376191
PITCH_TOLERANCE_CENTS = 50.0


def top1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose largest score is the labelled class (`outputs`: (N, classes))."""
    return float((outputs.argmax(axis=1) == labels).mean())


def f1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the F1 score of `outputs > 0.5` (N,) against binary `labels` (N,)."""
    found, truth = outputs.reshape(-1) > 0.5, labels.astype(bool)
    hits = int((found & truth).sum())
    return 2 * hits / max(int(found.sum() + truth.sum()), 1)


def recall_at_1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of queries whose nearest document is their own.

    Args:
        outputs: (2N, dim) float32 unit embeddings, queries first, then documents.
        labels: (2N,) pair index.
    """
    half = len(outputs) // 2
    nearest = (outputs[:half] @ outputs[half:].T).argmax(axis=1)
    return float((labels[half:][nearest] == labels[:half]).mean())


def within_50_cents(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of frames with the pitch within 50 cents.

    The pitch is the activation-weighted mean of the nine bins around the largest (CREPE, Kim et al., 2018).

    Args:
        outputs: (N, 360) float32 bin activations.
        labels: (N,) true frequency in Hz.
    """
    centre = np.clip(outputs.argmax(axis=1), 4, PITCH_BINS - 5)
    bins = centre[:, None] + np.arange(-4, 5)
    weights = np.take_along_axis(outputs, bins, axis=1)
    cents = (weights * (FIRST_BIN_CENTS + CENTS_PER_BIN * bins)).sum(axis=1) / weights.sum(axis=1)
    error = np.abs(cents - 1200 * np.log2(labels / 10.0))
    return float((error <= PITCH_TOLERANCE_CENTS).mean())
