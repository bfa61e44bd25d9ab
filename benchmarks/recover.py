"""Training the ONNX graph: agreement with the runtime, speed beside torch, and what distillation gives back.

    python -m benchmarks.recover [agreement speed damaged int4 ensemble]

`agreement`: largest difference of the bridge to ONNX Runtime, relative to the largest output, on calibration samples.
`speed`: 100 steps of batch 64 of the digits network, AdamW, one thread: the graph through the bridge against the same
network written by hand in torch, both eager, in turns of ten steps; the ratio is that of the median turns.
`damaged`: the demo's classifier with noise on its weights, distilled on its 512 calibration images without labels.
`int4`: the orientation network of the zoo (MobileNet) with weights of 4 bits, a scale for each channel, distilled on
its 128 calibration pages without labels, and judged on its 400 labelled ones.
`ensemble`: three members finetuned apart teach one of them.
Accuracy: on the demo's 1000 test images, which nothing was fitted to.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, version_converter

HERE = Path(__file__).parent
MNIST = HERE.parent / "calibration_data" / "mnist"
ZOO = HERE / ".cache" / "zoo"
STEPS, BATCH, TURN = 100, 64, 10
MOST_RATIO, MOST_ERROR, LEAST_BACK = 1.3, 1e-4, 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts on the command line, print and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recover")
    parts: dict[str, Callable[[Path], Any]] = {
        "agreement": agreement, "speed": speed, "damaged": damaged, "int4": int4, "ensemble": ensemble,
    }  # fmt: skip
    parser.add_argument("parts", nargs="*", default=list(parts))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "recover.json")
    options = parser.parse_args(arguments)
    document: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    os.environ["ONNXOPT_CACHE"] = ""
    for name in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            document[name] = parts[name](Path(folder))
        print(name, json.dumps(document[name], indent=1), flush=True)
    from onnxopt.measurement.env import environment
    from onnxopt.run.target import Target

    document["environment"] = {**environment(Target(threads=1)), "load_average": list(os.getloadavg())}
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    goals = list(_goals(document))
    for text, holds in goals:
        print("kept  " if holds else "MISSED", text)
    return 0 if all(holds for _, holds in goals) else 1


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


def damaged(folder: Path) -> dict[str, Any]:
    """Accuracy of the classifier, of the noisy one, and of that after 100 steps."""
    student = _noisy(MNIST / "mnist_cnn.onnx", folder / "noisy.onnx", 0.9, seed=0)
    return _recovered(student, [MNIST / "mnist_cnn.onnx"], folder)


def int4(folder: Path) -> dict[str, Any]:
    """Accuracy of the network, with weights of 4 bits, and of that after 100 steps."""
    place = ZOO / "orient"
    student = _four_bits(place / "model.onnx", folder / "int4.onnx")
    return _recovered(
        student, [place / "model.onnx"], folder, data=place / "calib.npz", test=place / "eval.npz", batch=16
    )


def ensemble(folder: Path) -> dict[str, Any]:
    """Accuracy of three members finetuned apart, of their mean, and of one of them after it was taught by all."""
    import onnxopt
    from onnxopt.recover.options import Training

    members: list[Path] = []
    for seed in (1, 2, 3):
        start = _noisy(MNIST / "mnist_cnn.onnx", folder / f"start{seed}.onnx", 0.9, seed=seed)
        members.append(folder / f"member{seed}.onnx")
        recipe = Training(steps=STEPS, batch=BATCH, seed=seed)
        onnxopt.finetune(start, members[-1], onnxopt.Source(str(MNIST / "calibration.npz")), recipe=recipe)
    found = _recovered(members[0], members, folder)
    x, labels = _test()
    mean = np.mean([_softmax(_logits(m, x)) for m in members], axis=0)
    return {"members": [_accuracy(m) for m in members], "mean": float((mean.argmax(1) == labels).mean()), **found}


def _recovered(
    student: Path,
    teachers: Sequence[Path],
    folder: Path,
    *,
    data: Path = MNIST / "calibration.npz",
    test: Path = MNIST / "test.npz",
    batch: int = BATCH,
) -> dict[str, Any]:
    import onnxopt
    from onnxopt.recover.options import Training

    with np.load(data) as stored:
        np.savez(folder / "unlabelled.npz", **{k: stored[k] for k in stored.files if k != "labels"})
    output = folder / "trained.onnx"
    report = onnxopt.distill(
        student,
        teachers,
        output,
        onnxopt.Source(str(folder / "unlabelled.npz")),
        recipe=Training(steps=STEPS, batch=batch),
        target=onnxopt.Target(threads=1),
        keep_failing=True,
    )
    teacher, before = _accuracy(teachers[0], test), _accuracy(student, test)
    after = _accuracy(output, test) if output.exists() else before
    back = (after - before) / (teacher - before) if teacher > before else None
    return {
        "teacher": teacher, "before": before, "after": after, "share_back": back,
        "seconds": report.data["seconds"], "verdict": report.verdict.reason,
    }  # fmt: skip


def _noisy(path: Path, output: Path, noise: float, *, seed: int) -> Path:
    model, rng = onnx.load(path), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            added = rng.standard_normal(array.shape).astype(np.float32) * array.std() * noise
            tensor.CopyFrom(numpy_helper.from_array(array + added, tensor.name))
    onnx.save(model, output)
    return output


def _four_bits(path: Path, output: Path) -> Path:
    model = version_converter.convert_version(onnx.load(path), 21)
    model.ir_version = 10
    nodes = []
    for tensor in list(model.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.ndim < 2:
            continue
        axis = 0 if array.ndim > 2 else 1  # of the outputs: Conv has them first, MatMul last
        others = tuple(i for i in range(array.ndim) if i != axis)
        scale = (np.abs(array).max(axis=others) / 7).clip(1e-8).astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(array.ndim)]
        codes = np.clip(np.round(array / scale.reshape(shape)), -8, 7).astype(np.int8)
        name = tensor.name
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(
            helper.make_tensor(f"{name}_codes", TensorProto.INT4, codes.shape, codes.ravel())
        )
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_codes", f"{name}_scale"], [name], axis=axis))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    onnx.save(model, output)
    return output


def _test(path: Path = MNIST / "test.npz") -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as stored:
        return next(stored[k] for k in stored.files if k != "labels"), stored["labels"]


def _logits(path: Path, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + BATCH]})[0] for i in range(0, len(x), BATCH)])


def _softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _accuracy(path: Path, test: Path = MNIST / "test.npz") -> float:
    x, labels = _test(test)
    return float((_logits(path, x).argmax(1) == labels).mean())


def _goals(document: dict[str, Any]) -> Any:
    for name, error in document.get("agreement", {}).items():
        yield f"{name}: differs from the runtime by {error:.1e}, limit {MOST_ERROR:g}", error <= MOST_ERROR
    if "speed" in document:
        ratio = document["speed"]["ratio"]
        yield f"100 steps take {ratio:.2f} times those of torch, limit {MOST_RATIO}", ratio <= MOST_RATIO
    for name in ("damaged", "int4"):
        if name in document:
            row = document[name]
            text = f"{name}: {row['before']:.3f} -> {row['after']:.3f} of {row['teacher']:.3f}"
            yield f"{text}: half of what was lost is back", (row["share_back"] or 0) >= LEAST_BACK
    if "ensemble" in document:
        row = document["ensemble"]
        yield (
            f"ensemble: members {row['members']}, mean {row['mean']:.3f}; one taught by all {row['after']:.3f}",
            row["after"] > row["before"],
        )


if __name__ == "__main__":
    raise SystemExit(main())
