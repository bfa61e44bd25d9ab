"""Runtime settings that belong to a model: ``M.onnx.session.json`` beside ``M.onnx``, applied wherever it is opened.

Some of ONNX Runtime's fusions slow a model down (SkipLayerNormalization costs MiniLM 9 %), and no model file can switch
them off. ``onnxopt.load_session`` and all commands apply the file; plain ONNX Runtime does not look at it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from onnxopt.core.atomic import write_atomic
from onnxopt.errors import ModelError

__all__ = ["NO_SETTINGS", "PRECISE", "SessionSettings", "read_settings", "settings_path", "write_settings"]

SCHEMA = 1
PRECISE = "session.x64quantprecision"
"""With ``"1"`` x86 CPUs without VNNI compute with U8 weights, whose sums never saturate; others do the same."""
SUFFIX = ".session.json"


@dataclass(frozen=True)
class SessionSettings:
    """Settings that were measured to pay.

    Attributes:
        provider: Short name of the execution provider they were measured on; on others they are not applied.
        disabled_optimizers: ONNX Runtime's graph optimizers to leave out (``disabled_optimizers`` of
            ``InferenceSession``).
        session_config: Session configuration entries (``session.*``).
    """

    provider: str = "cpu"
    disabled_optimizers: tuple[str, ...] = ()
    session_config: Mapping[str, str] = field(default_factory=dict[str, str])

    def __bool__(self) -> bool:
        return bool(self.disabled_optimizers or self.session_config)

    def __str__(self) -> str:
        parts = [f"without {name}" for name in self.disabled_optimizers]
        return ", ".join([*parts, *(f"{key}={value}" for key, value in self.session_config.items())])


NO_SETTINGS = SessionSettings()


def settings_path(model: Path) -> Path:
    """The file of the settings of the model at ``model``."""
    return model.with_name(model.name + SUFFIX)


def read_settings(model: Path) -> SessionSettings:
    """The settings beside the model file; none where there is no such file.

    Raises:
        ModelError: The file is not one that this version wrote.
    """
    path = settings_path(model)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return NO_SETTINGS
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error
    try:
        document = cast(dict[str, Any], json.loads(text))
        if document["schema"] != SCHEMA:
            raise _damaged(path, f"its schema is {document['schema']!r}, not {SCHEMA}")
        names, entries = document["disabled_optimizers"], document["session_config"]
        if not (isinstance(names, list) and isinstance(entries, dict) and isinstance(document["provider"], str)):
            raise _damaged(path, "a value has the wrong type")
        found = {str(k): str(v) for k, v in cast(dict[Any, Any], entries).items()}
        return SessionSettings(document["provider"], tuple(map(str, cast(list[Any], names))), found)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def write_settings(model: Path, settings: SessionSettings) -> None:
    """Puts the settings beside the model file; none removes a file that an earlier model has left there.

    Raises:
        OutputError: The file cannot be written.
    """
    path = settings_path(model)
    if not settings:
        path.unlink(missing_ok=True)
        return
    document = {
        "schema": SCHEMA,
        "provider": settings.provider,
        "disabled_optimizers": list(settings.disabled_optimizers),
        "session_config": dict(settings.session_config),
    }
    write_atomic(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(
        f"the session settings beside the model cannot be used: {why}",
        where=path.name,
        fix="remove the file (the model runs without it), or write the model again with onnxopt",
    )
