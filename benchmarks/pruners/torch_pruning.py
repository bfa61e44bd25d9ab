"""Channels removed as Torch-Pruning does it (DepGraph, Fang et al., 2023) on the torch module, then exported.

`uniform`: `GroupMagnitudeImportance` (p = 2), the same share of every group; `global`: over all groups together;
`bn`: `BNScaleImportance`, uniform. No fine-tuning. The model is not read from ONNX, which it cannot: the network is
built from the source and its `network.pt`, which a user with the file alone would not have.
"""

from pathlib import Path
from typing import Any

from benchmarks.pruners.goals import least_cut


def prune(config: str, kind: str, ratio: float, model: Path, data: Path, output: Path) -> dict[str, Any]:
    """Write the pruned model to `output`."""
    import onnx
    import torch
    import torch_pruning

    from benchmarks.zoo.small_nets import NETWORKS

    torch.set_num_threads(1)
    sample = torch.zeros(2, 3, 32, 32)
    importances = {
        "uniform": torch_pruning.importance.GroupMagnitudeImportance(p=2),
        "global": torch_pruning.importance.GroupMagnitudeImportance(p=2),
        "bn": torch_pruning.importance.BNScaleImportance(),
    }

    def pruned(share: float) -> torch.nn.Module:
        network = NETWORKS[model.parent.name]()
        network.load_state_dict(torch.load(model.parent / "network.pt", weights_only=True))
        network.eval()
        if share:
            torch_pruning.pruner.BasePruner(
                network,
                sample,
                importance=importances[config],
                pruning_ratio=share,
                global_pruning=config == "global",
                ignored_layers=[network.head],
            ).step()
        return network

    def cost(network: torch.nn.Module) -> float:
        macs, params = torch_pruning.utils.count_ops_and_params(network, sample)
        return macs if kind == "macs" else params

    whole = cost(pruned(0.0))
    network, done = least_cut(pruned, lambda found: cost(found) / whole, ratio)
    program = torch.onnx.export(
        network,
        (sample,),
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    onnx.save(program.model_proto, output)
    return done
