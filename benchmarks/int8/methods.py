"""The ways to INT8 that are compared, and the models that they are tried on: plain data, no heavy import."""

import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.entry import PEERS, ROOT, Entry

IDS = ("effnet", "minilm", "vad", "orient", "crepe", "digits", "resnet18", "mobilenet_v2", "vit_s")
DEFAULT_DROP = 0.01
WIDE_DROP = 0.05
"""Asked for too where labels are missing: agreement of two models on a few hundred photographs is a harsh measure."""


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
