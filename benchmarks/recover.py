"""Training the ONNX graph: agreement with the runtime, speed beside torch, and what distillation gives back.

    python -m benchmarks.recover [agreement speed damaged int4 ensemble pruned command]

`agreement`: largest difference of the bridge to ONNX Runtime, relative to the largest output, on calibration samples.
`speed`: 100 steps of batch 64 of the digits network, AdamW, one thread: the graph through the bridge against the same
network written by hand in torch, both eager, in turns of ten steps; the ratio is that of the median turns.
`damaged`: the demo's classifier with noise on its weights, distilled on its 512 calibration images without labels.
`int4`: the orientation network of the zoo (MobileNet) and the ResNet on clutter with weights of 4 bits, a scale for
each channel, distilled without labels on 128 calibration pages and on 2048 images.
`ensemble`: three members finetuned apart teach one of them.
`pruned`: the ResNet on clutter (4000 labelled test images), cut by channels alone to a half and a quarter of its work,
repaired in closed form on 2048 and on 256 unlabelled images, after 100 steps of distillation on 2048.
`command`: the same by `prune --recover distill` as a whole.
Accuracy of the demo's classifier: on its 1000 test images, which nothing was fitted to.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.recovery.accuracy import command, damaged, ensemble, int4, pruned
from benchmarks.recovery.bridge import agreement, speed
from onnxopt.measurement.env import environment
from onnxopt.run.target import Target

RESULTS = Path(__file__).parent / "results" / "recover.json"
MOST_RATIO, MOST_ERROR, LEAST_BACK = 1.3, 1e-4, 0.5
PRUNED = {0.5: (0.03, 0.96), 0.25: (0.05, 0.85)}
"""Of the work that is left: what is to be gained, and the share of the teacher's accuracy to end at."""
REPAIRED_ON = 1024
"""From this many samples on the share is asked for, below it the gain: closed forms leave less to gain on more."""
PARTS: dict[str, Callable[[Path], Any]] = {
    "agreement": agreement, "speed": speed, "damaged": damaged, "int4": int4, "ensemble": ensemble, "pruned": pruned,
    "command": command,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts on the command line, print and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recover")
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    document: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    os.environ["ONNXOPT_CACHE"] = ""
    for name in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            document[name] = PARTS[name](Path(folder))
        print(name, json.dumps(document[name], indent=1), flush=True)
        document["environment"] = environment(Target(threads=1))
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    goals = list(_goals(document))
    for text, holds in goals:
        print("kept  " if holds else "MISSED", text)
    return 0 if all(holds for _, holds in goals) else 1


def _goals(document: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    for name, error in document.get("agreement", {}).items():
        yield f"{name}: differs from the runtime by {error:.1e}, limit {MOST_ERROR:g}", error <= MOST_ERROR
    if "speed" in document:
        ratio = document["speed"]["ratio"]
        yield f"100 steps take {ratio:.2f} times those of torch, limit {MOST_RATIO}", ratio <= MOST_RATIO
    rows = {f"INT4 of {name}": row for name, row in document.get("int4", {}).items()}
    for name, row in (rows | {k: document[k] for k in ("damaged",) if k in document}).items():
        text = f"{name}: {row['before']:.3f} -> {row['after']:.3f} of {row['teacher']:.3f}"
        yield f"{text}: half of what was lost is back", (row["share_back"] or 0) >= LEAST_BACK
    if "ensemble" in document:
        row = document["ensemble"]
        yield (
            f"ensemble: members {row['members']}, mean {row['mean']:.3f}; one taught by all {row['after']:.3f}",
            row["after"] > row["before"],
        )
    for part in ("pruned", "command"):
        for name, row in document.get(part, {}).items():
            yield _pruned(f"{part} {name}", row)


def _pruned(name: str, row: dict[str, Any]) -> tuple[str, bool]:
    gain, share = PRUNED[row["macs"]]
    kept = row["after"] / row["teacher"]
    text = f"{name}: {row['after']:.4f}, {kept:.1%} of {row['teacher']:.4f}"
    if row.get("fitted", REPAIRED_ON) >= REPAIRED_ON:
        return f"{text}, at least {share:.0%}", kept >= share
    gained = row["after"] - row["before"]
    return f"{text}, {gained:+.4f}, at least {gain:+g}", gained >= gain


if __name__ == "__main__":
    raise SystemExit(main())
