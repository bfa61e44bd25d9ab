"""Options that several commands share, and what a command does with its report."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxopt.cli.settings import Settings
from onnxopt.core.progress import Progress
from onnxopt.core.report import Report, Status

if TYPE_CHECKING:
    from onnxopt.commands.common import Source
    from onnxopt.run.target import Target

__all__ = [
    "MAX_DROP",
    "PATH",
    "POSITIVE",
    "NonNegative",
    "data_options",
    "exit_code",
    "finish",
    "inconclusive_option",
    "json_option",
    "listed",
    "output_options",
    "progress",
    "show",
    "source",
    "source_options",
    "target",
    "target_options",
]

F = TypeVar("F", bound=Callable[..., Any])
Convert = Callable[[Any, "click.Parameter | None", "click.Context | None"], Any]
PATH = click.Path(path_type=Path)


class NonNegative(click.FloatRange):
    """A finite number from 0 up (``nan`` lies in every range of click's own)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number.

        Raises:
            click.BadParameter: It is negative, infinite or not a number.
        """
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


MAX_DROP = NonNegative(min=0)
POSITIVE = NonNegative(min=0, min_open=True)
PIPE_WIDTH = 120
"""Columns of a table in a file or a CI log."""


def source_options(function: F) -> F:
    """The options that name samples: ``--data --labels --preprocess --samples --seed``."""
    for option in reversed(
        [
            click.option(
                "--data", metavar="PATH", help="npz, folder of npz, npy, images, CSV/JSONL, test data, module:function."
            ),
            click.option("--labels", default="labels", show_default=True, metavar="KEY", help="Key of the labels."),
            click.option("--preprocess", type=PATH, metavar="TOML", help="How images become arrays."),
            click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Use at most N samples."),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all random choices."),
        ]
    ):
        function = option(function)
    return function


def data_options(function: F) -> F:
    """The options that name data and what to judge: those of ``source_options``, ``--metric --output-name``."""
    function = click.option("--output-name", metavar="NAME", help="The model output to judge; default: the first.")(
        function
    )
    function = click.option(
        "--metric", metavar="NAME", help="top1, top5, f1, recall, mae, rmse, cosine, cer, module:function."
    )(function)
    return source_options(function)


def target_options(function: F) -> F:
    """The options that name a target: ``--provider --threads --allow-fallback``."""
    for option in reversed(
        [
            click.option("--provider", default="cpu", show_default=True, metavar="NAME", help="Execution provider."),
            click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: the cores allowed here."),
            click.option("--allow-fallback", is_flag=True, help="Accept nodes that run on another provider."),
        ]
    ):
        function = option(function)
    return function


def output_options(function: F) -> F:
    """``-o OUT`` and what to do when the result fails its budget."""
    function = click.option("-o", "--output", type=PATH, metavar="OUT", help="Where the result goes.")(function)
    return click.option("--keep-failing", is_flag=True, help="Write the model even when it fails its budget.")(function)


def listed(convert: Convert) -> Callable[[click.Context, click.Parameter, str | None], tuple[Any, ...]]:
    """A callback that reads values with commas between them; the same value twice counts once, no option is ``()``.

    Args:
        convert: What makes a value of one item: ``click.INT.convert``, ...
    """

    def read(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[Any, ...]:
        items = [] if text is None else [item.strip() for item in text.split(",")]
        if not all(items):
            message = f"{text!r} is no list: give values with commas between them, as in 1,2"
            raise click.BadParameter(message, ctx=context, param=parameter)
        return tuple(dict.fromkeys(convert(item, parameter, context) for item in items))

    return read


def source(options: Mapping[str, Any]) -> Source:
    """What ``data_options`` said."""
    from onnxopt.commands.common import Source

    return Source(
        path=options["data"],
        labels=options["labels"],
        preprocess=options["preprocess"],
        samples=options["samples"],
        seed=options["seed"],
    )


def target(options: Mapping[str, Any]) -> Target:
    """What ``target_options`` said."""
    from onnxopt.run.target import Target, allowed_cores

    return Target(
        provider=options["provider"],
        threads=options["threads"] or allowed_cores(),
        allow_fallback=options["allow_fallback"],
    )


def inconclusive_option(function: F) -> F:
    """``--inconclusive pass|fail``: which exit code stands for a verdict that could not be reached."""
    return click.option(
        "--inconclusive", type=click.Choice(["pass", "fail"]), help="Exit 0 or 1 instead of 5 when undecided."
    )(function)


def json_option(function: F) -> F:
    """``--json`` after the command means the same as before it."""

    def store(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        del parameter
        if value:
            ctx.ensure_object(Settings).json = True

    return click.option("--json", is_flag=True, expose_value=False, callback=store, help="One JSON report on stdout.")(
        function
    )


def progress() -> Progress:
    """Where the running command shows how far it is."""
    from onnxopt.cli.progress import TerminalProgress

    settings = click.get_current_context().ensure_object(Settings)
    return TerminalProgress(quiet=settings.verbosity < 0)


def exit_code(report: Report, inconclusive: str | None) -> int:
    """The exit code for the verdict; ``inconclusive`` is what ``--inconclusive`` says."""
    if report.verdict.status is Status.INCONCLUSIVE and inconclusive is not None:
        return (Status.PASS if inconclusive == "pass" else Status.FAIL).exit_code
    return report.exit_code


def finish(report: Report, *, inconclusive: str | None = None) -> int:
    """Prints the report as asked for; the exit code."""
    code = exit_code(report, inconclusive)
    show(report, click.get_current_context().ensure_object(Settings), code)
    return code


def show(report: Report, settings: Settings, code: int) -> None:
    """Prints the report: as JSON, or for a terminal."""
    if settings.json:
        click.echo(report.to_json(code))
        return
    from rich.console import Console

    from onnxopt.report.terminal import render

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    render(report, Console(file=sys.stdout, highlight=False, width=width), verbosity=settings.verbosity)
