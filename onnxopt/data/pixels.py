"""One image file as the array that a model takes, by the settings of :mod:`onnxopt.data.preprocess`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import assert_never

import numpy as np
from PIL import Image, ImageOps

from onnxopt.data.content import readable
from onnxopt.data.dataset import Array
from onnxopt.data.preprocess import Preprocess, Resize
from onnxopt.errors import DataError

__all__ = ["read_image"]

_FILTERS: dict[Resize, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
_PADDING = 114  # the grey of the YOLO letterbox


def read_image(path: Path, settings: Preprocess, dtype: np.dtype[np.generic]) -> Array:
    """The image as ``(C, H, W)`` or ``(H, W, C)`` of ``dtype``, channels as ``settings.layout`` says.

    In order: decode, turn as EXIF says, colour, resize, centre crop, scale, mean and std, layout, cast.

    Args:
        path: Any 8-bit format that Pillow reads; the first frame counts.
        settings: Complete settings.
        dtype: Integer types are rounded and clipped to their range.

    Raises:
        DataError: The file is no readable 8-bit image, or smaller than the crop.
    """
    image = _crop(_resize(_decode(path, settings.colour == "GRAY"), settings), settings, path)
    pixels = np.asarray(image, dtype=np.float32)  # (H, W, 3) or (H, W)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if settings.colour == "BGR":
        pixels = pixels[:, :, ::-1]
    pixels = pixels * np.float32(1.0 if settings.scale is None else settings.scale)
    if settings.mean:
        pixels = pixels - np.asarray(settings.mean, dtype=np.float32)
    if settings.std:
        pixels = pixels / np.asarray(settings.std, dtype=np.float32)
    if settings.layout != "NHWC":
        pixels = pixels.transpose(2, 0, 1)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype.name)
        pixels = np.clip(np.rint(pixels), limits.min, limits.max)
    return np.ascontiguousarray(pixels.astype(dtype))


def _decode(path: Path, grey: bool) -> Image.Image:
    """The first frame, upright, in mode ``L`` or ``RGB``."""
    with readable(path, "image"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata; what it cannot decode it raises
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(str(error)) from error
        if image.mode.startswith(("I", "F")):
            raise DataError(
                f"not an 8-bit image (mode {image.mode})", where=str(path), fix="convert it to 8 bits per channel"
            )
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("L" if grey else "RGB")


def _resize(image: Image.Image, settings: Preprocess) -> Image.Image:
    if settings.size is None:
        return image
    resample, size = _FILTERS[settings.resize], settings.size
    height, width = (size, size) if isinstance(size, int) else size
    match settings.resize_mode:
        case "exact":
            return image.resize((width, height), resample)
        case "shorter":
            if height * image.width >= width * image.height:  # the other side is cut down to an integer (torchvision)
                width = int(height * image.width / image.height)
            else:
                height = int(width * image.height / image.width)
            return image.resize((width, height), resample)
        case "letterbox":
            factor = min(height / image.height, width / image.width)
            inside = max(1, round(image.height * factor)), max(1, round(image.width * factor))
            canvas = Image.new(image.mode, (width, height), (_PADDING,) * len(image.getbands()))
            corner = (width - inside[1]) // 2, (height - inside[0]) // 2
            canvas.paste(image.resize((inside[1], inside[0]), resample), corner)
            return canvas
        case _:
            assert_never(settings.resize_mode)


def _crop(image: Image.Image, settings: Preprocess, path: Path) -> Image.Image:
    if settings.crop is None:
        return image
    height, width = settings.crop
    if image.height < height or image.width < width:
        raise DataError(
            f"the image is {image.height} x {image.width} when it is to be cropped to {height} x {width}",
            where=str(path),
            fix="set a size in preprocess.toml that is not below the crop",
        )
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
