"""The data of ``merge``: samples that fit the shared inputs, given or made up."""

from __future__ import annotations

from pathlib import Path

from onnxopt.commands.common import Source, open_given
from onnxopt.core.io import save_scratch
from onnxopt.data.dataset import Dataset
from onnxopt.errors import UsageError
from onnxopt.evaluate.made_up import made_up
from onnxopt.merging.align import Alignment
from onnxopt.merging.combine import finish, join
from onnxopt.run.target import Target

__all__ = ["open_shared"]

MADE_UP = 8


def open_shared(source: Source, alignment: Alignment, folder: Path, target: Target) -> Dataset:
    """The data checked against the shared inputs, or made-up inputs that all members run on.

    Raises:
        DataError: They do not fit, or no made-up inputs do.
        UsageError: There are none, and it is said how to read them.
    """
    given = open_given(source, alignment.inputs)
    if given is not None:
        return given
    if source.preprocess is not None:
        raise UsageError(
            "--preprocess without a model's name says how images become arrays, and there are no data",
            where=f"--preprocess {source.preprocess}",
            fix="give --data, or write MEMBER:... for what is done to the input of a model",
        )
    joined = join(alignment)
    probe = folder / "probe.onnx"
    for value in joined.values[1:]:
        joined.model.graph.outputs.append(value)
    save_scratch(finish(joined, joined.values[0], alignment.members[0].spec), probe)
    return made_up(probe, alignment.inputs, target, samples=source.samples or MADE_UP, seed=source.seed)
