"""Channels removed by the L2 norm of their weights, the same share of every group, and nothing repaired.

onnxopt's own groups and surgery: what is left of pruning without its order and its repair.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.commands.common import Source, first_feeds, open_data, open_model
from onnxopt.commands.inspect_prune import prepared
from onnxopt.core.io import save
from onnxopt.passes.base import Context
from onnxopt.pruning.costs import macs_costs, params_costs, widths
from onnxopt.pruning.importance import rank
from onnxopt.pruning.plan import units_to_cut
from onnxopt.pruning.structure import analyse
from onnxopt.pruning.surgery import cut
from onnxopt.run.target import Target

LEAST_UNITS = 1
SHARES = np.linspace(1, 0, 513)


def prune(config: str, kind: str, ratio: float, path: Path, data: Path, output: Path) -> dict[str, Any]:
    """Write the pruned model to `output`."""
    target = Target(threads=1)
    model = open_model(path, target)
    feeds = first_feeds(open_data(Source(str(data)), path, model, target))
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(Path(folder), None, target)
        clean, shapes = prepared(model, path, feeds[0], ctx)
        structure = analyse(clean, shapes)
        rankings = rank(structure, (), {}, ctx, "l2")
    costs = macs_costs(clean, structure, shapes) if kind == "macs" else params_costs(structure)
    full = widths(structure.groups)
    kept = np.maximum(np.round(SHARES[:, None] * full), LEAST_UNITS).astype(int)
    shares = costs(kept) / costs(full)
    met = np.flatnonzero(shares <= ratio)
    if not len(met):
        raise ValueError(f"the least that it keeps of the {kind} is {shares.min():.3f}")
    chosen = int(met[0])
    save(cut(clean, shapes, units_to_cut(rankings, kept[chosen])), output)
    return {"removed": float(1 - SHARES[chosen]), "share": float(shares[chosen]), "kind": kind}
