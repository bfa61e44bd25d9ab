"""One model that ``benchmarks.export`` exports through the command line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A call of ``onnxopt export``.

    Attributes:
        name: What the table calls it.
        source: SOURCE of the command; ``{folder}`` stands for the folder that the family's ``prepare`` fills.
        options: Further options.
        refused: Words of the reason, where it is right to refuse this model.
    """

    name: str
    source: str
    options: tuple[str, ...] = ()
    refused: str | None = None
