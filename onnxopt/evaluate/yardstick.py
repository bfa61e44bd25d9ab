"""How far candidates are from one model at its outputs, on samples that it runs once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from onnxopt.data.dataset import Dataset
from onnxopt.evaluate.drift import DriftMeter, OutputDrift
from onnxopt.evaluate.outputs import size_bytes
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.target import Target

__all__ = ["Yardstick"]

CACHE_BYTES = 256 << 20


class Yardstick:
    """Measures the drift of candidates; mutable because it keeps what the reference returned, as far as that fits.

    Args:
        reference: Model file that candidates are compared with.
        samples: What both run on.
        target: Where they run.
        outputs: Names of the outputs that count; ``None``: all.
        cache_bytes: Memory for the outputs of the reference.

    Raises:
        ModelError: The reference cannot be loaded.
    """

    def __init__(
        self,
        reference: Path,
        samples: Dataset,
        target: Target,
        outputs: tuple[str, ...] | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._reference = open_session(reference, target)
        self._samples, self._target = samples, target
        self._outputs = None if outputs is None else list(outputs)
        self._kept: dict[int, Mapping[str, object]] = {}
        self._room = cache_bytes

    def drift(self, candidate: Path) -> tuple[OutputDrift, ...]:
        """The distance of the model in the file ``candidate`` at each output.

        Raises:
            ModelError: It cannot be loaded.
            DataError: It does not run on a sample, or returns something else than the reference.
        """
        session, meter = open_session(candidate, self._target), DriftMeter()
        for feeds, expected in self._expected():
            meter.update(expected, session.run(feeds, self._outputs))
        return meter.result()

    def _expected(self) -> Iterator[tuple[Feeds, Mapping[str, object]]]:
        for index, sample in enumerate(self._samples):
            found = self._kept.get(index)
            if found is None:
                found = self._reference.run(sample.feeds, self._outputs)
                size = sum(size_bytes(value) for value in found.values())
                if size <= self._room:
                    self._room -= size
                    self._kept[index] = found
            yield sample.feeds, found
