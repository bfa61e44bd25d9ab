"""The options that stand before the command."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass
class Settings:
    """The options that stand before the command. Mutable: ``--json`` may also follow, and ``run`` reads them later."""

    verbosity: int = 0
    json: bool = False
