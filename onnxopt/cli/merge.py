"""``onnxopt merge A.onnx B.onnx ... -o OUT``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli.options import (
    PATH,
    POSITIVE,
    NonNegative,
    finish,
    json_option,
    progress,
    source,
    source_options,
    target,
    target_options,
)
from onnxopt.errors import UsageError

if TYPE_CHECKING:
    from onnxopt.merging.ensemble import Fuse
    from onnxopt.merging.strategies import Strategy

__all__ = ["command"]

STRATEGIES = ("average", "weighted", "vote", "stack", "serial", "cascade", "soup")
OWN = {
    "on": ("average", "weighted"),
    "weights": ("weighted",),
    "vote": ("vote",),
    "meta": ("stack",),
    "max_drop": ("cascade",),
    "max_cost": ("cascade",),
    "threshold": ("cascade",),
}
"""Options that belong to a strategy."""


def _per_member(function: Any) -> Any:
    """``source_options`` whose ``--preprocess`` may also speak of one member."""
    function = source_options(function)
    function.__click_params__ = [p for p in function.__click_params__ if p.name != "preprocess"]
    return click.option(
        "--preprocess",
        "preprocess_items",
        multiple=True,
        metavar="[MEMBER:]SPEC",
        help="MEMBER:scale=S,mean=A;B;C,std=..,layout=NHWC,colour=BGR,size=HxW (or a TOML file with these keys): "
        "done to the input of that model first. Without MEMBER, a TOML file: how images become arrays.",
    )(function)


@click.command("merge")
@click.argument("models", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, metavar="OUT", help="Where the result goes.")
@click.option(
    "--strategy", type=click.Choice(STRATEGIES), help="Default: weighted where the data have labels, else average."
)
@click.option("--on", type=click.Choice(["auto", "probs", "logits"]), help="average, weighted: what is averaged.")
@click.option("--weights", metavar="W,...", help="weighted: numbers, fitted (default) or accuracy.")
@click.option("--vote", type=click.Choice(["hard", "soft"]), help="vote: votes (default), or mean of probabilities.")
@click.option("--meta", metavar="M", help="stack: logistic (default), META.onnx, or module:function (scikit-learn).")
@click.option("--max-drop", type=NonNegative(min=0), metavar="X", help="cascade: below all members together; 0.005.")
@click.option("--max-cost", type=POSITIVE, metavar="X", help="cascade: share of the cost of all members instead.")
@click.option("--threshold", type=POSITIVE, metavar="P", help="cascade: the confidence that ends it instead.")
@click.option(
    "--fuse",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    help="Members of one architecture side by side: auto (default) where measured faster, on, off.",
)
@click.option("--input-map", multiple=True, metavar="MEMBER:INPUT=NAME", help="What feeds an input of a model.")
@click.option(
    "--output-name", "output_names", multiple=True, metavar="[MEMBER:]NAME", help="The output that takes part."
)
@click.option("--metric", metavar="NAME", help="top1, top5, f1, recall, mae, rmse, cosine, cer, module:function.")
@click.option("--eval-data", metavar="PATH", help="Judge on these; default: cross-fitting on --data.")
@click.option("--force", is_flag=True, help="Write it even when it is not better than its best member.")
@_per_member
@target_options
@json_option
def command(
    models: tuple[Path, ...],
    output: Path | None,
    strategy: str | None,
    input_map: tuple[str, ...],
    output_names: tuple[str, ...],
    metric: str | None,
    eval_data: str | None,
    fuse: Fuse,
    force: bool,
    preprocess_items: tuple[str, ...],
    **shared: Any,
) -> int:
    """MODELS as one file, judged against the best of them and timed against a session for each.

    A member is named by its file name, or by its place from 1.
    """
    from onnxopt.commands.merge import merge
    from onnxopt.commands.merge_options import read_adapters, read_input_map
    from onnxopt.merging.member import titles

    if output is None:
        raise UsageError("-o OUT is needed", where="onnxopt merge", fix="onnxopt merge A.onnx B.onnx -o OUT")
    names = titles(models)
    plain = [item for item in preprocess_items if ":" not in item]
    if len(plain) > 1:
        raise UsageError(
            "--preprocess of the images is given twice", where=plain[1], fix="write MEMBER:... for a model"
        )
    own = [item for item in preprocess_items if ":" in item]
    report = merge(
        models,
        output,
        source({**shared, "preprocess": Path(plain[0]) if plain else None}),
        strategy=_strategy(strategy, shared),
        eval_data=eval_data,
        metric=metric,
        output_names=output_names,
        input_map=read_input_map(input_map, names),
        adapters=read_adapters(own, names),
        target=target(shared),
        fuse=fuse,
        force=force,
        progress=progress(),
    )
    return finish(report)


def _strategy(name: str | None, options: dict[str, Any]) -> Strategy | None:
    """What the options say.

    Raises:
        UsageError: An option belongs to another strategy.
    """
    from onnxopt.merging.strategies import Average, Cascade, Serial, Soup, Stack, Vote, Weighted

    given = {key: options[key] for key in OWN if options[key] is not None}
    for key in given:
        if name not in OWN[key]:
            option = f"--{key.replace('_', '-')}"
            fix = f"give --strategy {' or '.join(OWN[key])}"
            raise UsageError(f"{option} has no effect here", where=f"--strategy {name or 'not given'}", fix=fix)
    if "weights" in given:
        given["weights"] = _weights(given["weights"])
    if "vote" in given:
        given["kind"] = given.pop("vote")
    match name:
        case "average":
            return Average(**given)
        case "weighted":
            return Weighted(**given)
        case "vote":
            return Vote(**given)
        case "stack":
            return Stack(**given)
        case "serial":
            return Serial()
        case "cascade":
            return Cascade(**given)
        case "soup":
            return Soup()
        case _:
            return None


def _weights(text: str) -> Any:
    if text in ("fitted", "accuracy"):
        return text
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(
            f"{text!r} are no weights", where="--weights", fix="give fitted, accuracy, or numbers as in 0.5,0.3,0.2"
        ) from None
