"""What is pruned, how far and by whom: plain data, no heavy import."""

import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from benchmarks.entry import PEERS, ROOT, Entry, read_entry

UNLABELLED = "unlabelled.npz", "unlabelled"
"""More inputs beside the few that INT8 is calibrated on; `calib` where there are none."""
RIVALS = (
    ("magnitude", "l2"),
    ("onnxsim", "l2"),
    ("onnxsim", "global"),
    ("onnxsim", "wanda"),
    ("torch_pruning", "uniform"),
    ("torch_pruning", "global"),
    ("torch_pruning", "bn"),
)
OWN = "magnitude"
"""This pruner is of onnxopt's own parts and needs no other environment."""


@dataclass(frozen=True)
class Goal:
    """A share that may stay, of `"macs"`, `"params"` or `"latency"`."""

    kind: str
    ratio: float

    def __str__(self) -> str:
        return f"--{self.kind} {self.ratio:g}"


@dataclass(frozen=True)
class Method:
    """A way to a goal.

    Attributes:
        goal: Which.
        peer: Module of `benchmarks/pruners`; `None`: `onnxopt prune`.
        config: Which of the peer's ways.
    """

    goal: Goal
    peer: str | None = None
    config: str = ""

    @property
    def name(self) -> str:
        """As the table calls it."""
        return " ".join(filter(None, (self.peer or "onnxopt", self.config, str(self.goal))))

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        own = self.peer in (None, OWN)
        return Path(sys.executable) if own else ROOT / f".venv-peer-{self.peer}" / "bin" / "python"

    @property
    def version(self) -> str:
        """What is pinned for the peer; of onnxopt, what it runs on."""
        if self.peer in (None, OWN):
            return f"onnxruntime=={version('onnxruntime')}"
        lines = (PEERS / str(self.peer) / "requirements.txt").read_text().splitlines()
        return " ".join(line for line in lines if line and not line.startswith("#"))


@dataclass(frozen=True)
class Task:
    """A model of the zoo: what is asked of onnxopt, and of which peers the same.

    Attributes:
        goals: What is asked.
        rivals: Peers and their ways, for goals that are counted, not measured.
        has_more_data: Whether it is pruned on the file of more inputs.
    """

    goals: tuple[Goal, ...]
    rivals: tuple[tuple[str, str], ...] = ()
    has_more_data: bool = True

    @property
    def methods(self) -> tuple[Method, ...]:
        """Goal by goal, onnxopt first."""
        counted = {goal: self.rivals if goal.kind != "latency" else () for goal in self.goals}
        return tuple(m for goal in self.goals for m in (Method(goal), *(Method(goal, *r) for r in counted[goal])))


TASKS = {
    "clutter_resnet": Task((Goal("macs", 0.7), Goal("macs", 0.5)), RIVALS, has_more_data=False),
    "clutter_mobilenet": Task((Goal("macs", 0.75), Goal("macs", 0.5)), RIVALS, has_more_data=False),
    "resnet50": Task((Goal("latency", 0.7), Goal("params", 0.7)), (("onnxsim", "l2"),)),
    "mobilenet_v2": Task((Goal("latency", 0.7),)),
    "minilm": Task((Goal("latency", 0.75),)),
    "effnet": Task((Goal("latency", 0.8),)),
}


def read(folder: Path) -> Entry:
    """Return the zoo entry in `folder` with the data that it is pruned on.

    Raises:
        FileNotFoundError: A part of it is not there.
    """
    entry = read_entry(folder)
    if not TASKS[entry.id].has_more_data:
        return entry
    found = [folder / name for name in UNLABELLED if (folder / name).exists()]
    if not found:
        raise FileNotFoundError(f"{folder.name} has no unlabelled data: python -m benchmarks.zoo.build {folder.name}")
    return replace(entry, calibration=found[0])
