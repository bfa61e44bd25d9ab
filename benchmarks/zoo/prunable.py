"""`clutter_resnet`, `clutter_mobilenet`: trained here on digits over photographs, for pruning.

Both are right on 70 to 90 % of the unseen pictures: far enough from chance and from perfect that what a cut costs
shows. `unlabelled.npz` has more pictures of the calibration's kind, for
distillation; `network.pt` the weights in torch, for those who prune modules.
"""

from pathlib import Path

import torch
from torch import nn

from benchmarks.zoo.artifact import Entry, export_torch, save_samples
from benchmarks.zoo.clutter import SEED, compose, split, train
from benchmarks.zoo.small_nets import NETWORKS

TRAINING, CALIBRATION, UNLABELLED, EVALUATION = 20000, 256, 2048, 4000
FRAGMENTS = 2
EPOCHS = {"clutter_resnet": 16, "clutter_mobilenet": 12}


def build_clutter_resnet(folder: Path) -> Entry:
    """Write the trained residual network."""
    return _build(folder, "clutter_resnet")


def build_clutter_mobilenet(folder: Path) -> Entry:
    """Write the trained MobileNetV2."""
    return _build(folder, "clutter_mobilenet")


def _build(folder: Path, name: str) -> Entry:
    torch.manual_seed(SEED)
    known, unseen = split()
    pictures, labels = compose(*known, TRAINING, FRAGMENTS)
    for file, count in (("calib", CALIBRATION), ("unlabelled", UNLABELLED)):
        save_samples(folder / f"{file}.npz", {"input": compose(*known, count, FRAGMENTS)[0]})
    samples, truth = compose(*unseen, EVALUATION, FRAGMENTS)
    save_samples(folder / "eval.npz", {"input": samples}, truth)
    torch.manual_seed(SEED)
    network: nn.Module = NETWORKS[name]().to(memory_format=torch.channels_last)  # trains faster
    train(network, pictures, labels, EPOCHS[name])
    network.to(memory_format=torch.contiguous_format)
    torch.save(network.state_dict(), folder / "network.pt")
    arguments = {"input": torch.from_numpy(samples[:2])}
    export_torch(network, arguments, ["logits"], {"input": {0: "N"}}, folder / "model.onnx")
    return Entry(
        package=None,
        licence="Apache-2.0 (this repository); digits BSD-3-Clause package scikit-learn",
        task="handwritten digits over photographs",
        metric="top1",
        data="digits of scikit-learn; photographs of gcompris-qt-data (Debian), scikit-image and scikit-learn",
    )
