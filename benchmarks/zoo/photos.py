"""Natural photographs: gcompris-qt (Debian package gcompris-qt-data), scikit-image and scikit-learn.

gcompris packs its pictures as whole WebP files in Qt resource files (.rcc); found by the RIFF header.
"""

import importlib.util
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

RCC_FOLDER = Path("/usr/share/gcompris-qt/rcc")
# The activities whose large pictures are photographs; others hold icons, drawings and paintings.
RCC_NAMES = (
    "categorization",
    "clickgame",
    "erase",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "explore_world_music",
)
PACKAGE_PHOTOS = {
    "skimage": (
        "data/astronaut.png",
        "data/camera.png",
        "data/chelsea.png",
        "data/clock_motion.png",
        "data/coffee.png",
        "data/hubble_deep_field.jpg",
        "data/motorcycle_left.png",
        "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
MIN_SIDE = 128
MIN_COLOURS = 1500
COLOUR_GRID = 128
FINGERPRINT_SIDE = 16
SAME_PHOTO_CORRELATION = 0.97
RESIZE = 256
CROP = 224
SEED = 0


def find_webp(data: bytes) -> Iterator[Image.Image]:
    """Yield the WebP pictures inside `data` in file order."""
    position = data.find(b"RIFF")
    while position >= 0:
        step = 4
        if data[position + 8 : position + 12] == b"WEBP":
            step = 8 + int.from_bytes(data[position + 4 : position + 8], "little")
            yield Image.open(io.BytesIO(data[position : position + step]))
        position = data.find(b"RIFF", position + step)


def is_photograph(image: Image.Image) -> bool:
    """Return whether an opaque picture is large and has as many distinct colours as photographs do."""
    if image.mode != "RGB" or min(image.size) < MIN_SIDE:
        return False
    small = image.resize((COLOUR_GRID, COLOUR_GRID), Image.Resampling.NEAREST)
    return len(small.getcolors(COLOUR_GRID**2)) >= MIN_COLOURS


def fingerprint(image: Image.Image) -> np.ndarray:
    """Return a (256,) unit vector; two sizes of one photo have a dot product near 1."""
    side = (FINGERPRINT_SIDE, FINGERPRINT_SIDE)
    grey = np.asarray(image.convert("L").resize(side, Image.Resampling.BOX), dtype=np.float32).ravel()
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1.0)


def crop_centre(image: Image.Image) -> np.ndarray:
    """Return the photo resized to shorter side 256 and centre-cropped, (224, 224, 3) uint8."""
    scale = RESIZE / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - CROP) // 2, (height - CROP) // 2
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + CROP, top + CROP)))


def find_photographs() -> Iterator[Image.Image]:
    """Yield every candidate photograph, the Python packages' first."""
    for package, names in PACKAGE_PHOTOS.items():
        # Read by path: importing skimage.data needs its download package.
        root = Path(importlib.util.find_spec(package).origin).parent
        yield from (Image.open(root / name) for name in names)
    for name in RCC_NAMES:
        path = RCC_FOLDER / f"{name}.rcc"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; install the Debian package gcompris-qt-data")
        yield from filter(is_photograph, find_webp(path.read_bytes()))


@cache
def load_photos() -> np.ndarray:
    """Return all distinct photos in a fixed shuffled order, (N, 224, 224, 3) uint8 RGB."""
    prints: list[np.ndarray] = []
    crops: list[np.ndarray] = []
    for image in find_photographs():
        found = fingerprint(image)
        if not any(float(found @ other) > SAME_PHOTO_CORRELATION for other in prints):
            prints.append(found)
            crops.append(crop_centre(image))
    order = np.random.default_rng(SEED).permutation(len(crops))
    return np.stack([crops[i] for i in order])
