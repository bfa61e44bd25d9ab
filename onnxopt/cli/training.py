"""Options that ``distill`` and ``finetune`` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxopt.cli.options import PATH, POSITIVE, NonNegative, listed, progress, target

if TYPE_CHECKING:
    from onnxopt.commands.distill import TrainOptions
    from onnxopt.recover.options import Training

__all__ = ["run_options", "training_options"]

F = TypeVar("F", bound=Callable[..., Any])
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "step", "exponential", "cosine")


def training_options(function: F) -> F:
    """How to train: steps, optimizer, schedule, what is varied and what stays."""
    rate = NonNegative(min=0)
    for option in reversed(
        [
            click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True, help="Most steps."),
            click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, metavar="N"),
            click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="adamw", show_default=True),
            click.option("--lr", type=POSITIVE, metavar="X", help="Largest learning rate; default: what fits."),
            click.option("--momentum", type=rate, default=0.9, show_default=True, metavar="X"),
            click.option("--weight-decay", type=rate, default=0.0, show_default=True, metavar="X"),
            click.option("--schedule", type=click.Choice(SCHEDULES), default="cosine", show_default=True),
            click.option("--warmup", type=click.IntRange(min=0), default=20, show_default=True, metavar="STEPS"),
            click.option("--clip", type=rate, default=1.0, show_default=True, help="Norm of a gradient; 0: any."),
            click.option("--augment", callback=listed(click.STRING.convert), metavar="A,B",
                         help="Vary images: shift, flip, crop, mixup."),
            click.option("--patience", type=click.IntRange(min=0), default=6, show_default=True, metavar="N",
                         help="Looks without a smaller held-back loss; 0: no early stop."),
            click.option("--freeze", multiple=True, metavar="PATTERN", help="Weights, nodes or op types that stay."),
            click.option("--eval-data", metavar="PATH", help="Judge on these; default: a fifth of --data."),
            click.option("--time-limit", type=POSITIVE, metavar="SECONDS", help="Train no longer."),
            click.option("--tensorboard", type=PATH, metavar="DIR", help="Event files for TensorBoard."),
            click.option("--dry-run", is_flag=True, help="Say what would be trained and how, and stop."),
        ]
    ):  # fmt: skip
        function = option(function)
    return function


def run_options(options: Mapping[str, Any], **more: Any) -> TrainOptions:
    """What ``training_options``, ``output_options`` and ``target_options`` said; ``more``: of the recipe."""
    return {
        "recipe": _recipe(options, **more),
        "eval_data": options["eval_data"],
        "metric": options["metric"],
        "output_name": options["output_name"],
        "target": target(options),
        "time_limit": options["time_limit"],
        "tensorboard": options["tensorboard"],
        "keep_failing": options["keep_failing"],
        "dry_run": options["dry_run"],
        "progress": progress(),
    }


def _recipe(options: Mapping[str, Any], **more: Any) -> Training:
    from onnxopt.recover.options import Training

    names = ("steps", "batch", "optimizer", "lr", "momentum", "weight_decay", "schedule", "warmup", "clip", "augment",
             "patience", "freeze", "seed")  # fmt: skip
    return Training(**{name: options[name] for name in names}, **more)
