"""A model of the zoo with its data: plain data, no heavy import."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"


@dataclass(frozen=True)
class Entry:
    """A model of the zoo with its data and `info.json`; `metric`: `None` for random weights, which have no task."""

    id: str
    model: Path
    calibration: Path
    evaluation: Path
    metric: str | None

    @property
    def has_calibration_labels(self) -> bool:
        """Whether the calibration data carry labels, so that the metric of the task applies to them."""
        first = sorted(self.calibration.iterdir())[0] if self.calibration.is_dir() else self.calibration
        with zipfile.ZipFile(first) as archive:
            return "labels.npy" in archive.namelist()

    @property
    def is_transformer(self) -> bool:
        """Whether it has attention: more than the Softmax of a classifier, whose node may name it too."""
        with self.model.open("rb") as file:  # in parts: the memory of this process counts for its children
            return sum(part.count(b"Softmax") for part in iter(lambda: file.read(1 << 20), b"")) > 2


def read_entry(folder: Path) -> Entry:
    """Return the zoo entry in `folder`.

    Raises:
        FileNotFoundError: The folder or a part of it is not there.
    """
    info = json.loads((folder / "info.json").read_text())
    model, *data = folder / "model.onnx", _data(folder, "calib"), _data(folder, "eval")
    return Entry(folder.name, model, *data, metric=None if info["metric"] == "none" else info["metric"])


def _data(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.npz", folder / name):
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder.name} has no {name}.npz and no folder {name}")
