"""Made-up inputs for a model whose user gave no data: enough to run it and to compare, not to judge accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxopt.core.query import TensorSpec
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.data.synthetic import synthetic
from onnxopt.errors import DataError
from onnxopt.run.session import open_session
from onnxopt.run.target import Target

__all__ = ["made_up"]


def made_up(path: Path, specs: Sequence[TensorSpec], target: Target, *, samples: int = 8, seed: int = 0) -> Dataset:
    """Samples made from the input shapes that the model at ``path`` runs on.

    Raises:
        ModelError: The model cannot be loaded.
        DataError: No guess at the free dimensions makes the model run.
    """
    session = open_session(path, target)
    refusals: list[DataError] = []

    def accepts(feeds: Mapping[str, Array]) -> bool:
        try:
            session.run(feeds)
        except DataError as error:
            refusals[:] = [error]
            return False
        return True

    try:
        return synthetic(specs, accepts, samples=samples, seed=seed)
    except DataError as error:
        said = f" (the last try: {refusals[0].what})" if refusals else ""
        raise DataError(error.what + said, where=f"{path}, {error.where}", fix=error.fix) from error
