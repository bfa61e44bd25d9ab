"""Build the zoo: `python -m benchmarks.zoo.build [ids...]` writes each entry once and prints a table.

An entry is written to a temporary folder beside its place and renamed when complete.
"""

import argparse
import importlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.zoo.artifact import report, write_info

DEFAULT_OUT = Path(__file__).parents[1] / ".cache" / "zoo"

# Each builder is `function(folder: Path) -> Entry`.
BUILDERS = {
    "effnet": "photo_models:build_effnet",
    "minilm": "sentence:build_minilm",
    "vad": "speech:build_vad",
    "orient": "pages:build_orient",
    "crepe": "pitch:build_crepe",
    "digits": "digits:build_digits",
    "clutter_resnet": "prunable:build_clutter_resnet",
    "clutter_mobilenet": "prunable:build_clutter_mobilenet",
    "resnet18": "photo_models:build_resnet18",
    "resnet50": "photo_models:build_resnet50",
    "mobilenet_v2": "photo_models:build_mobilenet_v2",
    "vit_s": "photo_models:build_vit_s",
}

# Unlabelled inputs beside those that INT8 is calibrated on, written where they are missing: `function(folder: Path)`.
MORE = {
    "effnet": "photo_models:write_unlabelled",
    "minilm": "sentence:write_unlabelled",
    "resnet50": "photo_models:write_unlabelled",
    "mobilenet_v2": "photo_models:write_unlabelled",
}


def build(name: str, out: Path) -> dict[str, object]:
    """Return the `info.json` of entry `name`, building it under `out` first unless it is there."""
    target = out / name
    if (target / "info.json").exists():
        complete(target)
        return json.loads((target / "info.json").read_text())
    report(f"building {name} ...")
    temporary = out / f".{os.getpid()}" / name
    temporary.mkdir(parents=True)
    try:
        info = write_info(temporary, find(BUILDERS[name])(temporary))
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary.parent)
    complete(target)
    return info


def complete(entry: Path) -> None:
    """Write the unlabelled inputs of an entry that is to have some and has none."""
    if entry.name not in MORE or any(entry.glob("unlabelled*")):
        return
    report(f"more inputs for {entry.name} ...")
    temporary = entry.parent / f".{os.getpid()}" / entry.name
    temporary.mkdir(parents=True)
    try:
        find(MORE[entry.name])(temporary)
        for made in temporary.iterdir():
            made.rename(entry / made.name)
    finally:
        shutil.rmtree(temporary.parent)


def find(name: str) -> Callable[[Path], Any]:
    """Return the function called `module:function` in this package; imported when needed, as packages are large."""
    module, function = name.split(":")
    return getattr(importlib.import_module(f"benchmarks.zoo.{module}"), function)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the entries named on the command line (all by default) and print one line per entry."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.build", description=__doc__)
    parser.add_argument("ids", nargs="*", help=f"of {', '.join(BUILDERS)} (default: all)")
    parser.add_argument("--out", type=Path, default=os.environ.get("ONNXOPT_ZOO", DEFAULT_OUT))
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.ids) - BUILDERS.keys()):
        parser.error(f"unknown ids {', '.join(unknown)}; choose from {', '.join(BUILDERS)}")
    infos = [build(name, Path(options.out)) for name in options.ids or BUILDERS]
    print(f"{'id':<14}{'params':>12}{'fp32':>8}{'calib':>8}{'eval':>8}  metric")
    for info in infos:
        score = "-" if info["fp32"] is None else f"{info['fp32']:.3f}"
        line = f"{info['id']:<14}{info['params']:>12,}{score:>8}{info['n_calib']:>8}{info['n_eval']:>8}"
        print(f"{line}  {info['metric']}")


if __name__ == "__main__":
    main()
