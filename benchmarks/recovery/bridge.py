"""The graph as a torch module: agreement with ONNX Runtime, and speed beside the same network written by hand."""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.recovery.students import ZOO

BATCH, STEPS, TURN = 64, 100, 10


def agreement(folder: Path) -> dict[str, float]:
    """Model -> largest relative difference at any output, three samples."""
    from onnxopt.core.io import load
    from onnxopt.core.query import input_specs
    from onnxopt.data.sources import open_dataset
    from onnxopt.recover.bridge.module import Bridge

    del folder
    found: dict[str, float] = {}
    for name in ("digits", "vad", "orient", "effnet", "minilm", "crepe", "mobilenet_v2", "vit_s"):
        path = ZOO / name / "model.onnx"
        if not path.exists():
            continue
        model = load(path)
        data = ZOO / name / "calib"
        samples = open_dataset(str(data if data.exists() else data.with_suffix(".npz")), input_specs(model))
        bridge, session = Bridge(model), ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        worst = 0.0
        for index in range(3):
            feeds = samples[index].feeds
            names = [o.name for o in session.get_outputs()]
            for key, want in zip(names, session.run(names, dict(feeds)), strict=True):
                worst = max(worst, float(np.abs(bridge.run(feeds)[key] - want).max() / max(1e-9, np.abs(want).max())))
        found[name] = worst
    return found


def speed(folder: Path) -> dict[str, Any]:
    """Seconds of 100 steps each way, and their ratio."""
    import torch

    from onnxopt.core.io import load
    from onnxopt.recover.bridge.module import Bridge

    del folder
    torch.set_num_threads(1)
    bridge = Bridge(load(ZOO / "digits" / "model.onnx"))
    hand = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(576, 80), torch.nn.ReLU(), torch.nn.Linear(80, 10),
    )  # fmt: skip
    with torch.no_grad():
        for own, other in zip(hand.parameters(), (w.parameter for w in bridge.weights), strict=True):
            own.copy_(other)
    x, y = torch.randn(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
    ways = {
        "bridge": (lambda: bridge({"image": x})["logits"], torch.optim.AdamW(bridge.parameters(), lr=1e-3)),
        "hand": (lambda: hand(x), torch.optim.AdamW(hand.parameters(), lr=1e-3)),
    }
    same = float((ways["bridge"][0]() - ways["hand"][0]()).detach().abs().max())
    turns: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(STEPS // TURN + 2):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            forward, optimizer = ways[name]
            start = time.perf_counter()
            for _ in range(TURN):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(forward(), y).backward()
                optimizer.step()
            turns[name].append(time.perf_counter() - start)
    kept = {name: times[2:] for name, times in turns.items()}
    medians = {name: statistics.median(times) for name, times in kept.items()}
    return {
        "seconds": {name: sum(times) for name, times in kept.items()},
        "ratio": medians["bridge"] / medians["hand"],
        "turn_ratios": sorted(a / b for a, b in zip(kept["bridge"], kept["hand"], strict=True)),
        "difference_at_start": same,
    }
