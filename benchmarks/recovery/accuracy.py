"""What training gives back of the accuracy that noise, 4 bits or pruning took, on data without labels."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import onnxopt
from benchmarks.recovery.students import MNIST, ZOO, accuracy, four_bits, labelled, logits, noisy, softmax
from onnxopt.recover.hook import IMAGE_PACE, RECOVERY
from onnxopt.recover.options import Training

STEPS, BATCH = 100, 64
UNLABELLED = replace(RECOVERY, steps=STEPS, augment=("shift",), lr=IMAGE_PACE * 1e-3)
"""The recipe of ``--recover distill``, with fewer steps."""
ONE = onnxopt.Target(threads=1)


def damaged(folder: Path) -> dict[str, Any]:
    """Accuracy of the classifier, of the noisy one, and of that after 100 steps."""
    student = noisy(MNIST / "mnist_cnn.onnx", folder / "noisy.onnx", 0.9, seed=0)
    return _recovered(student, [MNIST / "mnist_cnn.onnx"], folder)


def int4(folder: Path) -> dict[str, Any]:
    """Of two networks: accuracy, that with weights of 4 bits, and that after 100 steps."""
    recipes = {
        "orient": ("calib.npz", Training(steps=STEPS, batch=16)),
        "clutter_resnet": ("unlabelled.npz", replace(UNLABELLED, lr=None)),
    }
    found: dict[str, Any] = {}
    for name, (data, recipe) in recipes.items():
        place = ZOO / name
        student = four_bits(place / "model.onnx", folder / f"{name}.onnx")
        paths = {"data": place / data, "test": place / "eval.npz"}
        found[name] = _recovered(student, [place / "model.onnx"], folder, **paths, recipe=recipe)
    return found


def ensemble(folder: Path) -> dict[str, Any]:
    """Accuracy of three members finetuned apart, of their mean, and of one of them after it was taught by all."""
    members: list[Path] = []
    for seed in (1, 2, 3):
        start = noisy(MNIST / "mnist_cnn.onnx", folder / f"start{seed}.onnx", 0.9, seed=seed)
        members.append(folder / f"member{seed}.onnx")
        recipe = Training(steps=STEPS, batch=BATCH, seed=seed)
        onnxopt.finetune(start, members[-1], onnxopt.Source(str(MNIST / "calibration.npz")), recipe=recipe)
    found = _recovered(members[0], members, folder)
    x, labels = labelled()
    mean = np.mean([softmax(logits(m, x)) for m in members], axis=0)
    return {"members": [accuracy(m) for m in members], "mean": float((mean.argmax(1) == labels).mean()), **found}


def pruned(folder: Path) -> dict[str, Any]:
    """A ResNet at a half and a quarter of its work, closed form on 2048 and on 256 samples; then 100 steps on 2048."""
    place, found = ZOO / "clutter_resnet", dict[str, Any]()
    model, test = place / "model.onnx", place / "eval.npz"
    for macs in (0.5, 0.25):
        for name in ("unlabelled.npz", "calib.npz"):
            source, start = onnxopt.Source(str(place / name)), folder / f"{name}{macs}.onnx"
            report = onnxopt.prune(model, start, source, macs=macs, factor=False, target=ONE, keep_failing=True)
            row = _recovered(start, [model], folder, data=place / "unlabelled.npz", test=test, recipe=UNLABELLED)
            fitted = report.data["fitted_samples"]
            found[f"macs {macs:g}, repaired on {fitted}"] = {"macs": macs, "fitted": fitted, **row}
    return found


def command(folder: Path) -> dict[str, Any]:
    """The same ResNet by ``prune --recover distill`` as a whole, on 2048 samples."""
    place, found = ZOO / "clutter_resnet", dict[str, Any]()
    model, test = place / "model.onnx", place / "eval.npz"
    source = onnxopt.Source(str(place / "unlabelled.npz"))
    for macs in (0.5, 0.25):
        output, start = folder / f"recovered{macs}.onnx", time.monotonic()
        recipe: dict[str, Any] = {"macs": macs, "factor": False, "recover": "distill"}
        report = onnxopt.prune(model, output, source, **recipe, target=ONE, keep_failing=True)
        scores = {"teacher": accuracy(model, test), "after": accuracy(output, test)}
        seconds = round(time.monotonic() - start, 1)
        found[f"macs {macs:g}"] = {"macs": macs, **scores, "seconds": seconds, "verdict": report.verdict.reason}
    return found


def _recovered(
    student: Path,
    teachers: Sequence[Path],
    folder: Path,
    *,
    data: Path = MNIST / "calibration.npz",
    test: Path = MNIST / "test.npz",
    recipe: Training | None = None,
) -> dict[str, Any]:
    with np.load(data) as stored:
        np.savez(folder / "unlabelled.npz", **{k: stored[k] for k in stored.files if k != "labels"})
    output = folder / "trained.onnx"
    output.unlink(missing_ok=True)
    report = onnxopt.distill(
        student,
        teachers,
        output,
        onnxopt.Source(str(folder / "unlabelled.npz")),
        recipe=recipe or Training(steps=STEPS, batch=BATCH),
        target=ONE,
        keep_failing=True,
    )
    teacher, before = accuracy(teachers[0], test), accuracy(student, test)
    after = accuracy(output, test) if output.exists() else before
    back = (after - before) / (teacher - before) if teacher > before else None
    return {
        "teacher": teacher, "before": before, "after": after, "share_back": back,
        "seconds": report.data["seconds"], "verdict": report.verdict.reason,
    }  # fmt: skip
