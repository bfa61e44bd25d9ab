"""Image folders and manifests as samples of a model with one image input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.data.check import fit, require_dtype
from onnxopt.data.content import Digest, Source, natural_key, readable
from onnxopt.data.dataset import Sample
from onnxopt.data.manifest import Listing, class_note
from onnxopt.data.pixels import read_image
from onnxopt.data.preprocess import Preprocess, complete
from onnxopt.errors import DataError

__all__ = ["SUFFIXES", "list_images", "open_images"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def list_images(folder: Path) -> Listing:
    """The images below ``folder`` in natural order; two or more subfolders are classes, numbered in sorted order.

    Raises:
        DataError: Some images lie in class subfolders and others beside them.
    """
    files = [p for p in folder.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(folder))]
    paths = sorted((p for p in files if p.suffix.lower() in SUFFIXES), key=lambda p: _order(p.relative_to(folder)))
    others = sorted(p.name for p in files if p.suffix.lower() not in SUFFIXES)
    notes = (f"{len(others)} files that are no images were left out ({others[0]}, ...)",) if others else ()
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not _is_hidden(Path(p.name)))
    if len(classes) < 2 or not paths:
        return Listing(tuple(paths), None, notes)
    loose = [p for p in paths if p.parent == folder]
    if loose:
        raise DataError(
            f"{len(loose)} images lie beside the class folders, {len(paths) - len(loose)} inside",
            where=str(loose[0]),
            fix="move each image into the folder of its class, or all into one folder",
        )
    labels = np.array([classes.index(p.relative_to(folder).parts[0]) for p in paths], dtype=np.int64)
    return Listing(tuple(paths), labels, (*notes, class_note(classes)))


def open_images(listing: Listing, specs: Sequence[TensorSpec], preprocess: Preprocess | None, where: str) -> Source:
    """One sample for each image, or for each ``k`` images where the model fixes the batch size ``k``.

    Raises:
        DataError: The model has several inputs, there are too few images, or they do not fit the input.
        UsageError: The preprocessing does not fit the images.
    """
    if len(specs) != 1:
        names = ", ".join(repr(spec.name) for spec in specs)
        raise DataError(
            f"images cannot feed {len(specs)} inputs ({names})",
            where=where,
            fix="give .npz files with one array per input",
        )
    spec = specs[0]
    settings = complete(preprocess, spec, where)
    if spec.dtype is None or spec.dtype.kind in "bU":
        require_dtype(np.dtype(np.uint8), spec, where)
        raise DataError(f"images cannot feed the input {spec}", where=where, fix="give .npz files")
    batch = spec.shape[0] if spec.shape is not None and len(spec.shape) == 4 else None
    step = batch if isinstance(batch, int) and batch > 0 else 1
    count, rest = divmod(len(listing.paths), step)
    if not count:
        raise DataError(
            f"{rest} images do not fill one batch of {step}, which the model fixes",
            where=where,
            fix=f"give {step} images or more, or export the model with a dynamic batch dimension",
        )
    reader = _Images(listing, spec, settings, step, where)
    reader.read(0)
    notes = listing.notes + ((f"{rest} images left out: they do not fill a batch of {step}",) if rest else ())
    if preprocess is None:
        notes = (*notes, f"no preprocessing given, taken from the model's input: {settings}")
    return Source(count, reader.read, _digest(listing, settings), listing.labels is not None, notes)


@dataclass(frozen=True)
class _Images:
    listing: Listing
    spec: TensorSpec
    settings: Preprocess
    step: int
    where: str

    def read(self, index: int) -> Sample:
        rows = slice(index * self.step, (index + 1) * self.step)
        paths, dtype = self.listing.paths[rows], self.spec.dtype
        if dtype is None:
            raise DataError(f"images cannot feed the input {self.spec}", where=self.where, fix="give .npz files")
        arrays = [read_image(path, self.settings, dtype) for path in paths]
        for path, array in zip(paths, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise DataError(
                    f"images of one batch differ in size: {arrays[0].shape} and {array.shape}",
                    where=str(path),
                    fix="set size and crop in preprocess.toml",
                )
        is_batched = self.spec.shape is None or len(self.spec.shape) == 4
        feeds = {self.spec.name: np.stack(arrays) if is_batched else arrays[0]}
        labels = None if self.listing.labels is None else self.listing.labels[rows]
        return Sample(fit(feeds, [self.spec], f"{paths[0]}, sample {index}"), labels)


def _digest(listing: Listing, settings: Preprocess) -> str:
    digest = Digest("images")
    digest.text(str(settings))
    for path in listing.paths:
        with readable(path, "image"):
            digest.file(path)
    if listing.labels is not None:
        digest.array(listing.labels)
    return digest.hex()


def _order(path: Path) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    return tuple(natural_key(part) for part in path.parts)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)
