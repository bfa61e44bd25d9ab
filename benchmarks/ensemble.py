"""What ``merge`` is worth: accuracy of its fits over 20 splits, and the time of one file against separate sessions.

``python -m benchmarks.ensemble [--splits N] [--parts latency,...]`` writes ``benchmarks/results/ensemble.json``.
Small nets on noisy digits of scikit-learn; five unequal ones and five similar ones; fits see 256 labelled samples,
tests 6000 others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from benchmarks.ensemble_models import Array, Digits, digits, fine_tunes, net, similar, train, unequal, write_mlp
from onnxopt import Average, Cascade, OnnxoptError, Soup, Source, Target, merge
from onnxopt.measurement.env import environment
from onnxopt.merging.calls import Calls
from onnxopt.merging.exits import choose_exits
from onnxopt.merging.forms import Form, Task
from onnxopt.merging.points import points_of
from onnxopt.merging.rules import Combination, Linear
from onnxopt.merging.stack import fit_stack
from onnxopt.merging.weights import fit_weights

RESULTS = Path(__file__).parent / "results" / "ensemble.json"
FITTED, TESTED = 256, 6000
SPLITS_FROM = 1000
"""Seed of the first split: the rule of the exits was chosen on those from 100, and is judged on others."""
TASK = Task("classes", 1)
ONE = Target(threads=1)
PARTS = ("unequal", "similar", "soups", "latency")
SHOWN = ("decision", "ratio", "low", "high", "processes")


def answers(paths: list[Path], x: Array) -> tuple[Array, ...]:
    sessions = [ort.InferenceSession(str(p), providers=["CPUExecutionProvider"]) for p in paths]
    return tuple(s.run(None, {"x": x})[0] for s in sessions)


def accuracy(output: Array, labels: Array) -> float:
    return float((output.argmax(axis=1) == labels).mean())


def over_splits(models: list[torch.nn.Sequential], data: Digits, folder: Path, splits: int) -> dict[str, object]:
    """Test accuracy of each rule, mean over splits."""
    paths = [write_mlp(m, folder / f"m{k}.onnx") for k, m in enumerate(models)]
    costs = [sum(p.numel() for p in m.parameters()) for m in models]
    shares = [c / sum(costs) for c in costs]
    forms = (Form("same", 1),) * len(models)
    keep = tuple(range(len(models)))
    x, labels = data.draw(TESTED, 1)
    test = answers(paths, x)
    rows: dict[str, list[float]] = {}
    for split in range(splits):
        own, truth = data.draw(FITTED, SPLITS_FROM + split)
        calls = Calls((answers(paths, own),), (truth,))
        points = points_of(calls, forms, TASK)
        weights, _ = fit_weights(points, split)
        best = int(np.argmax([accuracy(y, truth) for y in calls.outputs[0]]))
        exits, _ = choose_exits(Cascade(), TASK, forms, shares, calls)
        cascade, used = exits.run(test)
        stack, _ = fit_stack(
            "logistic", TASK, [("softmax", 1)] * len(models), [y.shape for y in test], calls, split, 17
        )
        mean = Combination(keep, forms, Linear((1 / len(models),) * len(models))).compute(test)
        found = {
            "best single": accuracy(test[best], labels),
            "mean": accuracy(mean, labels),
            "shrunk NNLS": accuracy(Combination(keep, forms, Linear(tuple(weights))).compute(test), labels),
            "stack": accuracy(stack.compute(test), labels),
            "cascade": accuracy(cascade, labels),
            "cascade cost": exits.cost(used),
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    means = {name: round(float(np.mean(values)), 4) for name, values in rows.items()}
    deviations = {name: round(float(np.std(values)), 4) for name, values in rows.items()}
    members = [round(accuracy(y, labels), 4) for y in test]
    return {"members": members, "mean over splits": means, "standard deviation": deviations}


def soups(data: Digits, folder: Path) -> dict[str, object]:
    """Fine-tunes against their ensemble; independent nets, which must be refused."""
    tunes = [write_mlp(m, folder / f"tune{k}.onnx") for k, m in enumerate(fine_tunes(data))]
    others = [
        write_mlp(train(net((64, 32), k), data, samples=500, steps=400, seed=k), folder / f"other{k}.onnx")
        for k in range(2)
    ]
    x, labels = data.draw(600, 7)
    np.savez(folder / "soup.npz", x=x, labels=labels)
    source = Source(str(folder / "soup.npz"))
    report = merge(tunes, folder / "soup.onnx", source, strategy=Soup(), target=ONE, force=True)
    x, labels = data.draw(TESTED, 1)
    each = answers(tunes, x)
    try:
        merge(others, folder / "none.onnx", source, strategy=Soup(), target=ONE)
        refused = "not refused"
    except OnnxoptError as error:
        refused = error.what
    return {
        "members": [round(accuracy(y, labels), 4) for y in each],
        "soup": round(accuracy(answers([folder / "soup.onnx"], x)[0], labels), 4),
        "ensemble": round(accuracy(np.mean(each, axis=0), labels), 4),
        "kept": report.data["kept"],
        "independent": refused,
    }


def with_trunk(widths: tuple[int, ...], folder: Path) -> list[Path]:
    """Four nets whose first two layers are the same."""
    trunk, found = net(widths, 0), list[Path]()
    for k in range(4):
        model = net(widths, k)
        for place in (0, 2):
            model[place].load_state_dict(trunk[place].state_dict())
        found.append(write_mlp(model, folder / f"shared{len(widths)}{k}.onnx"))
    return found


def latencies(data: Digits, folder: Path) -> dict[str, object]:
    """One file against separate sessions, paired."""
    x, labels = data.draw(256, 9)
    np.savez(folder / "x.npz", x=x)
    np.savez(folder / "labelled.npz", x=x, labels=labels)
    (folder / "eights").mkdir()
    for k in range(8):
        np.savez(folder / "eights" / f"{k}.npz", x=x[8 * k : 8 * k + 8])
    small = [write_mlp(net((64, 32), k), folder / f"small{k}.onnx") for k in range(4)]
    most, some = (with_trunk(widths, folder) for widths in ((512, 512), (512, 512, 144)))
    widths = ((16,), (64, 32), (512, 256), (1024, 1024))
    staged = [
        write_mlp(train(net(w, k), data, samples=800, steps=250, seed=k), folder / f"stage{k}.onnx")
        for k, w in enumerate(widths)
    ]
    plans = {
        "four small MLPs": (small, Average(), "x.npz"),
        "four small MLPs, batch 8": (small, Average(), "eights"),
        "four with a shared trunk of 98 %": (most, Average(), "x.npz"),
        "four with a shared trunk of 80 %": (some, Average(), "x.npz"),
        "cascade of four": (staged, Cascade(), "labelled.npz"),
    }
    found: dict[str, object] = {}
    for name, (paths, strategy, file) in plans.items():
        report = merge(paths, None, Source(str(folder / file)), strategy=strategy, target=ONE, force=True)
        latency = report.data["latency"]
        assert isinstance(latency, dict)
        kept = {key: latency[key] for key in SHOWN}
        row: dict[str, object] = {"speed-up": round(1 / float(str(latency["ratio"])), 2), **kept}
        fusion = report.data["fusion"]
        if isinstance(fusion, dict) and isinstance(beside := fusion["latency"], dict):
            row["side by side"] = {"kept": fusion["is_kept"], **{key: beside[key] for key in SHOWN}}
        found[name] = {**row, "fit": report.data["fit"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--parts", default=",".join(PARTS), help="the other parts stay as they were measured before")
    options = parser.parse_args()
    parts = options.parts.split(",")
    torch.set_num_threads(1)
    start = time.time()
    results: dict[str, object] = {}
    if set(parts) < set(PARTS):
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    results |= {"splits": options.splits, "fitted_on": FITTED, "tested_on": TESTED}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, noise, make in (("unequal", 0.45, unequal), ("similar", 0.35, similar)):
            if case in parts:
                data = digits(noise)
                results[case] = over_splits(make(data), data, folder, options.splits)
        if "soups" in parts:
            results["soups"] = soups(digits(0.45), folder)
        if "latency" in parts:
            results["latency"] = latencies(digits(0.45), folder)
    for part in parts:
        print(part, json.dumps(results[part]), flush=True)
    results["seconds"] = round(time.time() - start, 1)
    results["environment"] = environment(ONE)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
