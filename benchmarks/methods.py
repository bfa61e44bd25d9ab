"""The ways to INT8 that are compared, and the zoo entries that they are tried on: plain data, no heavy import."""

import json
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"
IDS = ("effnet", "minilm", "vad", "orient", "crepe", "digits", "resnet18", "mobilenet_v2", "vit_s")
DEFAULT_DROP = 0.01
WIDE_DROP = 0.05
"""Asked for too where labels are missing: agreement of two models on a few hundred photographs is a harsh measure."""


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


@dataclass(frozen=True)
class Method:
    """A way to INT8.

    Attributes:
        name: As the table calls it.
        peer: Folder of `benchmarks/peers`; `None`: onnxopt.
        config: Which of the peer's ways.
        max_drop: The budget: asked for of onnxopt, only compared with for the peers.
        options: Options of `onnxopt quantize` beside model, data, metric and threads.
    """

    name: str
    peer: str | None = None
    config: str = ""
    max_drop: float = DEFAULT_DROP
    options: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return Path(sys.executable) if self.peer is None else ROOT / f".venv-peer-{self.peer}" / "bin" / "python"

    @property
    def version(self) -> str:
        """What is pinned for the peer, one requirement after the other; of onnxopt, what it runs on."""
        if self.peer is None:
            return f"onnxruntime=={version('onnxruntime')}"
        files = (PEERS / self.peer / "requirements.txt", PEERS / self.peer / "requirements-no-deps.txt")
        lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        return " ".join(line for line in lines if line and not line.startswith("#"))


CONVOLUTIONS = {
    "onnxruntime": ("minmax", "percentile", "default", "dynamic"),
    "nncf": ("plain", "per-tensor"),
    "quark": ("minmax", "percentile"),
    "aimet": ("minmax", "sqnr", "cle"),
    "modelopt": ("max", "entropy"),
    "onnxsim": ("static", "full", "full-auto", "dynamic"),
    "neural_compressor": ("minmax",),
}
ATTENTION = {
    "onnxruntime": ("minmax", "percentile", "default", "dynamic"),
    "nncf": ("plain", "transformer", "transformer-per-tensor"),
    "quark": ("minmax", "smooth"),
    "aimet": ("minmax", "sqnr"),
    "modelopt": ("max", "entropy"),
    "onnxsim": ("static", "full", "full-auto", "dynamic"),
    "neural_compressor": ("minmax", "smooth"),
}
"""The configurations of each peer for models with attention; `CONVOLUTIONS` for all others."""


def methods(entry: Entry) -> tuple[Method, ...]:
    """Return the methods to compare on `entry`, onnxopt's first."""
    wide = Method(f"onnxopt --max-drop {WIDE_DROP}", max_drop=WIDE_DROP, options=("--max-drop", str(WIDE_DROP)))
    own = (Method("onnxopt"), *([wide] if entry.metric == "agreement" else []))
    if entry.metric is None:  # random weights have no accuracy to keep
        own = (Method("onnxopt", max_drop=1.0, options=("--max-drop", "1")),)
    configs = ATTENTION if entry.is_transformer else CONVOLUTIONS
    return (*own, *(Method(f"{peer} {config}", peer, config) for peer, them in configs.items() for config in them))


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
