"""`vad`: Silero voice activity detection on synthetic speech (espeak-ng) in noise, a label per frame.

The model maps a whole clip at once: `input` (T, 576), frames of 512 new samples at 16 kHz after the
last 64 of the frame before, and the LSTM state `h`, `c` (1, 1, 128); it gives a probability (T,).
"""

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

from benchmarks.zoo.artifact import Entry, save_samples
from benchmarks.zoo.texts import load_sentences

RATE = 16000
FRAME, CONTEXT = 512, 64
STATE_SHAPE = (1, 1, 128)
CLIP_FRAMES = 625
PAUSE_SECONDS = (0.5, 6.0)
SNR_DB = (20.0, 10.0, 5.0, 0.0)
SPEECH_LEVEL = 0.1
# A frame counts as speech this many dB below the clip's loud frames; espeak-ng is silent between words.
THRESHOLD_DB = -40.0
SEED = 0
CALIBRATION_VOICES = ("en-gb+f3", "en-us+m5", "en-gb-scotland+m2", "en-us+linda")
EVALUATION_VOICES = ("en-us+m3", "en-gb+f2", "en-029+m7", "en-us+f4", "en-gb-x-rp+m1", "en-us+steph")


def speak(sentence: str, voice: str) -> np.ndarray:
    """Return `sentence` as (samples,) float32 at 16 kHz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["espeak-ng", "-v", voice, "-w", file.name, sentence], check=True)
        rate, audio = wavfile.read(file.name)
    return resample_poly(audio.astype(np.float32) / 32768, RATE, rate).astype(np.float32)


def draw_noise(length: int, generator: np.random.Generator) -> np.ndarray:
    """Return noise (length,) of unit power with a spectrum `1 / f^k`, k between 0 (white) and 1 (pink)."""
    slope = generator.uniform(0.0, 1.0)
    spectrum = np.fft.rfft(generator.standard_normal(length))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-slope / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, length)
    return noise / noise.std()


def label_frames(frames: np.ndarray) -> np.ndarray:
    """Return (T,) int64, 1 where a clean frame (T, 512) is within 40 dB of the clip's loud frames."""
    power = (frames.astype(np.float64) ** 2).mean(axis=1)
    return (power > np.quantile(power, 0.95) * 10 ** (THRESHOLD_DB / 10)).astype(np.int64)


def save_clip(path: Path, sentences: Sequence[str], voice: str, snr: float, seed: int) -> None:
    """Write one clip: sentences with pauses, scaled to a fixed level, plus noise."""
    generator = np.random.default_rng((SEED, seed))
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < CLIP_FRAMES * FRAME:
        parts.append(np.zeros(int(generator.uniform(*PAUSE_SECONDS) * RATE), dtype=np.float32))
        parts.append(speak(str(generator.choice(sentences)), voice))
    clean = np.concatenate(parts)[: CLIP_FRAMES * FRAME]
    labels = label_frames(clean.reshape(-1, FRAME))
    spoken = clean.reshape(-1, FRAME)[labels == 1]
    clean *= SPEECH_LEVEL / np.sqrt((spoken**2).mean())
    noisy = clean + SPEECH_LEVEL * 10 ** (-snr / 20) * draw_noise(len(clean), generator)
    frames = np.clip(noisy, -1, 1).astype(np.float32).reshape(-1, FRAME)
    context = np.concatenate([np.zeros((1, CONTEXT), np.float32), frames[:-1, -CONTEXT:]])
    state = np.zeros(STATE_SHAPE, dtype=np.float32)
    save_samples(path, {"input": np.concatenate([context, frames], axis=1), "h": state, "c": state}, labels)


def save_clips(folder: Path, licences: Sequence[str], voices: Sequence[str], count: int, first: int) -> None:
    """Write `count` clips that go through all pairs of voice and SNR in turn."""
    sentences = [s for licence in licences for s in load_sentences(licence)]
    for i in range(count):
        voice, snr = voices[i % len(voices)], SNR_DB[(i + i // len(voices)) % len(SNR_DB)]
        save_clip(folder / f"{i:02d}.npz", sentences, voice, snr, first + i)


def build_vad(folder: Path) -> Entry:
    """Copy the model and write 4 calibration clips and 12 evaluation clips of 20 s."""
    package = Path(importlib.util.find_spec("silero_vad").origin).parent
    shutil.copy(package / "data" / "silero_vad_16k_sequence.onnx", folder / "model.onnx")
    save_clips(folder / "calib", ["MPL-2.0", "Artistic"], CALIBRATION_VOICES, count=4, first=100)
    save_clips(folder / "eval", ["GPL-3", "GFDL-1.3"], EVALUATION_VOICES, count=12, first=0)
    return Entry(
        package="silero-vad",
        licence="MIT",
        task="speech or not per 32 ms frame",
        metric="f1",
        data="espeak-ng speech of licence texts in white to pink noise at 20, 10, 5 and 0 dB",
    )
