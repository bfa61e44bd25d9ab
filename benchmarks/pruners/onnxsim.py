"""Channels removed as onnxsim does it, after `simplify`: the one peer that prunes ONNX files.

`l2`: `apply_structured_pruning`, the same share of every chain of layers; `global`: the share taken of all together;
`wanda`: `apply_structured_wanda_pruning`, weights times activations on the calibration data. None repairs what is left.
The share is the least that meets the goal. (onnxslim 0.1.98 has no pruning; its name means removing nodes.)
"""

from pathlib import Path
from typing import Any

from benchmarks.peers.feeds import read
from benchmarks.pruners.goals import count, least_cut


def prune(config: str, kind: str, ratio: float, model: Path, data: Path, output: Path) -> dict[str, Any]:
    """Write the pruned model to `output`."""
    import onnx
    import onnxsim

    simple, _ = onnxsim.simplify(onnx.load(model))
    feeds = list(read(data)) if config == "wanda" else []

    def cut(share: float) -> onnx.ModelProto:
        if config == "wanda":
            return onnxsim.apply_structured_wanda_pruning(simple, feeds, sparsity=share)
        return onnxsim.apply_structured_pruning(simple, sparsity=share, global_sparsity=config == "global")

    whole = count(simple, kind)
    found, done = least_cut(cut, lambda pruned: count(pruned, kind) / whole, ratio)
    onnx.save(found, output)
    return done
