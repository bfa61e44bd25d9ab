"""Handwritten digits over photographs, 3x32x32, and the training of networks on them.

Each picture is a digit of scikit-learn, warped onto a crop of a photograph, among fragments of other digits: hard
enough that the float network errs, so that one which lost accuracy shows it. No digit or photograph is in both parts.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from benchmarks.zoo.artifact import report
from benchmarks.zoo.photos import load_photos

SIDE = 32
TRAINING_DIGITS = 1300
TRAINING_SHARE = 0.75
"""Of the photographs."""
BATCH_SIZE = 64
LEARNING_RATE = 4e-3
SEED = 0

Source = tuple[np.ndarray, np.ndarray, np.ndarray]


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
    digits: np.ndarray, labels: np.ndarray, photos: np.ndarray, count: int, fragments: int
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
