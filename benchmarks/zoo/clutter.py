"""`clutter`: a small MobileNetV2 with ReLU6, trained here on handwritten digits over photographs, 3x32x32.

Each picture is a digit of scikit-learn, warped onto a crop of a photograph, among fragments of other digits: hard
enough that the float network errs, so that one which lost accuracy shows it. No digit or photograph is in both parts.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from benchmarks.zoo.artifact import Entry, export_torch, report, save_samples
from benchmarks.zoo.photos import load_photos
from benchmarks.zoo.topologies import InvertedResidual, conv_norm

SIDE = 32
TRAINING, CALIBRATION, EVALUATION = 10000, 256, 3000
TRAINING_DIGITS = 1300
TRAINING_SHARE = 0.75
"""Of the photographs."""
FRAGMENTS = 3
EPOCHS = 30
BATCH_SIZE = 64
LEARNING_RATE = 4e-3
SEED = 0

Source = tuple[np.ndarray, np.ndarray, np.ndarray]


class Network(nn.Module):
    """MobileNetV2 for small pictures, (N, 3, 32, 32) -> (N, 10); its stages as in Sandler et al., 2018, table 2."""

    STAGES = ((1, 16, 1, 1), (4, 24, 1, 2), (4, 32, 2, 2), (4, 64, 2, 2))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(3, 16, 3), nn.ReLU6()]
        inputs = 16
        for expansion, outputs, repeats, stride in self.STAGES:
            for i in range(repeats):
                layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.layers = nn.Sequential(*layers, conv_norm(inputs, 128, 1), nn.ReLU6())
        self.head = nn.Linear(128, 10)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean((2, 3)))


def warp(digits: torch.Tensor, size: tuple[float, float], shift: float) -> torch.Tensor:
    """Return (N, 1, 8, 8) digits turned, sheared and moved, (N, 1, 32, 32); `size`: their share of the side."""
    count = len(digits)
    angle = (torch.rand(count) - 0.5) * 0.9
    scale = 1 / (size[0] + (size[1] - size[0]) * torch.rand(count))
    shear = (torch.rand(count) - 0.5) * 0.4
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos(), scale * (shear - angle.sin())
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    theta[:, :, 2] = (torch.rand(count, 2) - 0.5) * 2 * shift * scale[:, None]
    grid = F.affine_grid(theta, [count, 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(digits, grid, align_corners=False)


def paint(canvas: torch.Tensor, ink: torch.Tensor, contrast: tuple[float, float]) -> torch.Tensor:
    """Return the pictures (N, 3, 32, 32) in 0..1 with `ink` (N, 1, 32, 32) on them in one random colour each."""
    count = len(canvas)
    strength = contrast[0] + (contrast[1] - contrast[0]) * torch.rand(count, 1, 1, 1)
    return canvas + strength * ink * (torch.rand(count, 3, 1, 1) - canvas)


def compose(
    digits: np.ndarray, labels: np.ndarray, photos: np.ndarray, count: int, fragments: int = FRAGMENTS
) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (count, 3, 32, 32) float32 around 0, and labels (count,) int64; torch's generator decides."""
    shapes = torch.from_numpy(digits.astype(np.float32)[:, None] / 16)
    chosen = torch.randint(len(shapes), (count,))
    canvas = torch.empty(count, 3, SIDE, SIDE)
    for i, photo in enumerate(torch.randint(len(photos), (count,)).tolist()):
        side = int(torch.randint(SIDE, 4 * SIDE, ()))
        top, left = (int(torch.randint(224 - side + 1, ())) for _ in range(2))
        crop = torch.from_numpy(photos[photo, top : top + side, left : left + side].copy()).permute(2, 0, 1)[None]
        canvas[i] = F.interpolate(crop.float() / 255, (SIDE, SIDE), mode="area")[0]
    for _ in range(fragments):
        ink = warp(shapes[torch.randint(len(shapes), (count,))], (0.5, 0.8), 0.6)
        edge = torch.randint(4, 28, (count, 1, 1, 1))
        ink = ink * (torch.arange(SIDE) < edge) * (torch.rand(count, 1, 1, 1) < 0.8)
        canvas = paint(canvas, ink, (0.4, 0.9))
    canvas = paint(canvas, warp(shapes[chosen], (0.6, 0.95), 0.2), (0.6, 1.0))
    canvas = (canvas + 0.06 * torch.randn_like(canvas)).clamp(0, 1)
    return ((canvas - 0.5) / 0.25).numpy(), labels[chosen.numpy()].astype(np.int64)


def train(network: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int) -> nn.Module:
    """Return the network after `epochs` passes with Adam and a one-cycle learning rate."""
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    steps = epochs * -(-len(inputs) // BATCH_SIZE)
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    for epoch in range(epochs):
        for part in torch.randperm(len(inputs)).split(BATCH_SIZE):
            optimiser.zero_grad()
            loss = F.cross_entropy(network(inputs[part]), targets[part])
            loss.backward()
            optimiser.step()
            schedule.step()
        report(f"epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}")
    return network


def split() -> tuple[Source, Source]:
    """Return digits (n, 8, 8), their labels (n,) and photographs, for training and for evaluation."""
    digits, photos = load_digits(), load_photos()
    order = np.random.default_rng(SEED).permutation(len(digits.images))
    images, labels = digits.images[order], digits.target[order]
    cut, seen = TRAINING_DIGITS, int(len(photos) * TRAINING_SHARE)
    return (images[:cut], labels[:cut], photos[:seen]), (images[cut:], labels[cut:], photos[seen:])


def build_clutter(folder: Path) -> Entry:
    """Train, calibrate on further pictures of the training digits, evaluate on digits and photographs of their own."""
    torch.manual_seed(SEED)
    known, unseen = split()
    pictures = compose(*known, TRAINING)
    network = train(Network(), *pictures, EPOCHS)
    for name, part, count in (("calib", known, CALIBRATION), ("eval", unseen, EVALUATION)):
        pictures, truth = compose(*part, count)
        save_samples(folder / f"{name}.npz", {"input": pictures}, truth)
    export_torch(
        network, {"input": torch.from_numpy(pictures[:2])}, ["logits"], {"input": {0: "N"}}, folder / "model.onnx"
    )
    return Entry(
        package=None,
        licence="Apache-2.0 (this repository); digits BSD-3-Clause package scikit-learn",
        task="handwritten digits over photographs",
        metric="top1",
        data="digits of scikit-learn; photographs of gcompris-qt-data (Debian), scikit-image and scikit-learn",
    )
