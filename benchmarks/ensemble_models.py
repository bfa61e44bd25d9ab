"""Small nets on noisy digits of scikit-learn, and the ONNX files of ensembles made of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
PIXELS, CLASSES = 64, 10


@dataclass(frozen=True)
class Digits:
    """Clean digits: those that nets are trained on, and those that noisy samples are drawn from."""

    train: Array
    train_labels: Array
    pool: Array
    pool_labels: Array
    noise: float

    def draw(self, count: int, seed: int) -> tuple[Array, Array]:
        """``count`` noisy digits that no net has seen, with labels."""
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, len(self.pool), count)
        noise = self.noise * rng.standard_normal((count, PIXELS))
        return (self.pool[rows] + noise).astype(np.float32), self.pool_labels[rows].astype(np.int64)


def digits(noise: float) -> Digits:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels, labels = (data.data / 16).astype(np.float32), data.target
    order = np.random.default_rng(0).permutation(len(pixels))
    first, second = order[:900], order[900:]
    return Digits(pixels[first], labels[first], pixels[second], labels[second], noise)


def net(widths: Sequence[int], seed: int) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    sizes = [PIXELS, *widths, CLASSES]
    layers: list[torch.nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def train(
    model: torch.nn.Sequential, data: Digits, *, samples: int, steps: int, seed: int, rate: float = 3e-3
) -> torch.nn.Sequential:
    """Adam on ``samples`` of the clean digits with fresh noise in each step."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(data.train))[:samples]
    optimizer = torch.optim.Adam(model.parameters(), rate, weight_decay=1e-4)
    for step in range(steps):
        rows = rng.choice(chosen, 64)
        batch = data.train[rows] + data.noise * rng.standard_normal((64, PIXELS))
        loss = torch.nn.functional.cross_entropy(
            model(torch.from_numpy(batch.astype(np.float32))), torch.from_numpy(data.train_labels[rows])
        )
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def write_mlp(model: torch.nn.Sequential, path: Path, *, softmax: bool = True, batch: int | str = "N") -> Path:
    """The net as Gemm and Relu, with a Softmax at the end."""
    nodes, weights, value = [], [], "x"
    linear = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    for i, layer in enumerate(linear):
        weights += [
            numpy_helper.from_array(layer.weight.detach().numpy(), f"w{i}"),
            numpy_helper.from_array(layer.bias.detach().numpy(), f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"h{i}"], transB=1))
        value = f"h{i}"
        if i < len(linear) - 1:
            nodes.append(helper.make_node("Relu", [value], [f"r{i}"]))
            value = f"r{i}"
    if softmax:
        nodes.append(helper.make_node("Softmax", [value], ["probs"], axis=1))
        value = "probs"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, PIXELS])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [batch, CLASSES])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def unequal(data: Digits) -> list[torch.nn.Sequential]:
    """Five nets of different quality."""
    plans = [((16,), 200, 250), ((24,), 300, 250), ((64,), 400, 250), ((128,), 600, 300), ((256, 64), 900, 400)]
    return [train(net(w, i), data, samples=n, steps=s, seed=i) for i, (w, n, s) in enumerate(plans)]


def similar(data: Digits) -> list[torch.nn.Sequential]:
    """Five nets of one kind that saw few and different digits."""
    return [train(net((64, 32), i), data, samples=150, steps=250, seed=10 + i) for i in range(5)]


def fine_tunes(data: Digits, count: int = 4) -> list[torch.nn.Sequential]:
    """Nets that went on from one parent, each on other digits and other noise."""
    parent = train(net((64, 32), 99), data, samples=500, steps=400, seed=99)
    found: list[torch.nn.Sequential] = []
    for i in range(count):
        child = net((64, 32), 99)
        child.load_state_dict(parent.state_dict())
        found.append(train(child, data, samples=600, steps=200, seed=200 + i, rate=1.5e-3))
    return found
