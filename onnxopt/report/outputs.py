"""The files that a gate writes for a CI system: JUnit XML, Markdown, the JSON report."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from onnxopt.core.atomic import check_writable, write_atomic
from onnxopt.core.report import Report
from onnxopt.errors import InputError, OnnxoptError, OutputError, UsageError
from onnxopt.report.annotations import append_summary, check_annotations, error_annotation, print_annotations
from onnxopt.report.junit import junit, junit_error
from onnxopt.report.markdown import markdown, markdown_error

__all__ = ["check_outputs", "write_error", "write_outputs"]


def check_outputs(
    *,
    junit_path: Path | None,
    markdown_path: Path | None,
    report_path: Path | None,
    models: Iterable[Path],
    others: Iterable[str | Path | None] = (),
) -> None:
    """Finds out, before anything is measured, whether the files can be written.

    Args:
        junit_path: ``--junit``.
        markdown_path: ``--markdown``.
        report_path: ``--report``.
        models: The models that are read; their data files are inputs too.
        others: More that is read: data, settings.

    Raises:
        UsageError: A file is an input, or named twice.
        OutputError: A file cannot be written.
    """
    inputs = [file for model in models for file in _files(model)] + [path for path in others if path is not None]
    taken = {Path(os.path.realpath(path)): "an input; inputs are never changed" for path in inputs}
    for option, path in (("--junit", junit_path), ("--markdown", markdown_path), ("--report", report_path)):
        if path is None:
            continue
        final = check_writable(path, option=option)
        if final in taken:
            raise UsageError(
                f"the output is {taken[final]}", where=f"{option} {path}", fix=f"give another name with {option}"
            )
        taken[final] = f"the same file as that of {option}"


def write_outputs(
    report: Report,
    *,
    junit_path: Path | None,
    markdown_path: Path | None,
    report_path: Path | None,
    exit_code: int,
) -> None:
    """Writes the files that were asked for, and tells GitHub Actions where the command runs there.

    A file that cannot be written does not keep the others from being written.

    Args:
        report: What the gate returned.
        junit_path: ``--junit``.
        markdown_path: ``--markdown``.
        report_path: ``--report``.
        exit_code: How the command ends.

    Raises:
        OutputError: A file cannot be written.
    """
    print_annotations(check_annotations(report, exit_code=exit_code), os.environ)
    append_summary(markdown(report), os.environ)
    _write_all(
        ("--junit", junit_path, junit(report, exit_code=exit_code)),
        ("--markdown", markdown_path, markdown(report)),
        ("--report", report_path, report.to_json(exit_code) + "\n"),
    )


def write_error(error: OnnxoptError, *, junit_path: Path | None, markdown_path: Path | None) -> None:
    """Says in the same places that the gate could not check anything.

    Raises:
        OutputError: A file cannot be written.
    """
    print_annotations([error_annotation(error)], os.environ)
    append_summary(markdown_error(error), os.environ)
    _write_all(
        ("--junit", junit_path, junit_error(error.what, error.where, error.fix)),
        ("--markdown", markdown_path, markdown_error(error)),
    )


def _files(model: Path) -> tuple[Path, ...]:
    from onnxopt.core.io import data_files

    try:
        return data_files(model)
    except InputError:  # a stored baseline, or one that the gate will explain
        return (model,)


def _write_all(*files: tuple[str, Path | None, str]) -> None:
    errors: list[OutputError] = []
    for option, path, text in files:
        if path is not None:
            try:
                write_atomic(path, text.encode(), option=option)
            except OutputError as error:
                errors.append(error)
    if errors:
        raise errors[0]
