"""Estimators in files: ``.joblib`` and pickles, which can run any code, and ``.skops``, which names its types first."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from onnxopt.core.plugins import optional
from onnxopt.core.report import Note
from onnxopt.errors import InputError, ModelError, OnnxoptError
from onnxopt.frameworks.base import Request, require_trust, said_by
from onnxopt.frameworks.scikit_parts import class_name, is_a, parts

__all__ = ["read_estimator"]

FOREIGN = {"xgboost": "XGBoost", "lightgbm": "LightGBM", "catboost": "CatBoost"}
"""Packages whose estimators skl2onnx knows only with converters of another package."""
SHOWN = 5


def read_estimator(path: Path, request: Request) -> tuple[Any, tuple[Note, ...]]:
    """The fitted estimator in a file, and what was found on the way.

    Raises:
        InputError: The file needs ``--trust``, or the extra is not installed.
        ModelError: It cannot be read, or holds something else.
    """
    optional("sklearn", "sklearn")
    if path.suffix.lower() != ".skops":
        require_trust(path, request, "a pickle; skops.io.dump of skops writes files that are safe to read")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = (
                _skops(path, request) if path.suffix.lower() == ".skops" else optional("joblib", "sklearn").load(path)
            )
        except OnnxoptError:
            raise
        except Exception as error:  # a pickle raises whatever its classes raise
            raise ModelError(
                f"the estimator cannot be read: {said_by(error)}",
                where=path.name,
                fix=_advice(error),
            ) from error
    _require_estimator(found, path)
    return found, _version_notes(said)


def _skops(path: Path, request: Request) -> Any:
    io = optional("skops.io", "sklearn")
    unknown: list[str] = io.get_untrusted_types(file=path)
    if unknown and not request.trust:
        shown = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
        require_trust(path, request, f"it uses {len(unknown)} types that skops does not know to be safe: {shown}")
    return io.load(path, trusted=unknown)


def _advice(error: Exception) -> str:
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing:
        return f"install the package that brings {missing!r}, with which it was saved"
    if isinstance(error, AttributeError):
        return (
            "it needs a class or function that is not there: save the estimator with classes of installed packages only"
        )
    return "save it again with joblib.dump or skops.io.dump, and with the scikit-learn version that is installed here"


def _require_estimator(found: Any, path: Path) -> None:
    from sklearn.exceptions import NotFittedError

    BaseEstimator: Any = optional("sklearn.base", "sklearn").BaseEstimator
    check_is_fitted: Any = optional("sklearn.utils.validation", "sklearn").check_is_fitted

    if not is_a(found, BaseEstimator):
        inside = f" with the keys {', '.join(map(str, list(found)[:SHOWN]))}" if is_a(found, dict) else ""
        raise ModelError(
            f"the file holds no scikit-learn estimator but {type(found).__name__}{inside}",
            where=path.name,
            fix="save the estimator itself: joblib.dump(estimator, path)",
        )
    for part in parts(found):
        package = type(part).__module__.partition(".")[0]
        if package in FOREIGN:
            raise ModelError(
                f"estimators of {FOREIGN[package]} are not converted here",
                where=f"{path.name}: {class_name(part)}",
                fix=f"convert it with onnxmltools (convert_{package}), or use HistGradientBoosting of scikit-learn",
            )
    try:
        check_is_fitted(found)
    except NotFittedError as error:
        raise ModelError(
            "the estimator is not fitted", where=f"{path.name}: {class_name(found)}", fix="call fit before saving it"
        ) from error
    except TypeError as error:
        raise InputError(
            f"this is no estimator: {error}", where=f"{path.name}: {class_name(found)}", fix="save a fitted estimator"
        ) from error


def _version_notes(said: list[warnings.WarningMessage]) -> tuple[Note, ...]:
    """One note for each version of scikit-learn that the parts were saved with."""
    found: dict[str, int] = {}
    for warning in said:
        version = getattr(warning.message, "original_sklearn_version", None)
        if version is not None:
            found[str(version)] = found.get(str(version), 0) + 1
    import sklearn

    here = re.sub(r"\+.*", "", sklearn.__version__)
    return tuple(
        Note("scikit-learn", "note", f"saved with version {version}, read with {here}: answers may differ from then")
        for version in sorted(found)
    )
