"""Models as PyTorch exports them: what is cut gives the outputs of the model with the same channels zeroed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from onnxopt.commands.inspect_prune import prepared  # noqa: E402
from onnxopt.core.io import load, save  # noqa: E402
from onnxopt.passes.base import Context  # noqa: E402
from onnxopt.pruning.structure import analyse  # noqa: E402
from onnxopt.pruning.surgery import cut, zeroed  # noqa: E402
from onnxopt.run.session import open_session  # noqa: E402
from onnxopt.run.target import Target  # noqa: E402
from tests.pruning import nets  # noqa: E402

# Network, exported by Dynamo or by tracing, and numbers of units that must be found among its groups.
CASES = {
    "resnet_basic": (nets.resnet_basic, True, [8, 8, 12, 12]),
    "resnet_basic_traced": (nets.resnet_basic, False, [8, 8, 12, 12]),
    "resnet_bottleneck": (nets.resnet_bottleneck, True, [16, 6, 7, 6, 7]),
    "mobilenet_v2": (nets.mobilenet_v2, True, [8, 20, 24]),
    "mobilenet_v3": (nets.mobilenet_v3, True, [8, 20, 6]),
    "efficientnet": (nets.efficientnet, True, [8, 20, 6]),
    "densenet": (nets.densenet, True, [10, 6, 6, 6]),
    "ghostnet": (nets.ghostnet, True, [8, 10, 7]),
    "inception": (nets.Inception, True, [8, 6, 5, 7, 9]),
    "unet_transposed": (lambda: nets.UNet(True), True, [8, 12, 12, 10]),
    "unet_resized": (lambda: nets.UNet(False), True, [8, 12, 10]),
    "convnext": (nets.ConvNeXt, True, [26]),
    "crnn": (nets.CRNN, True, [8, 10]),
    "vit": (nets.ViT, True, [4, 22, 4, 22]),
    "vit_traced": (nets.ViT, False, [4, 22, 4, 22]),
    "bert": (nets.Bert, True, [4, 22, 4, 22]),
    "bert_traced": (nets.Bert, False, [4, 22, 4, 22]),
    "decoder": (nets.Decoder, True, [2, 22]),
    "swin": (nets.Swin, True, [4, 22]),
}


def _inputs(make: object, batch: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    if make not in (nets.Bert, nets.Decoder):
        return {"x": rng.standard_normal((batch, 3, 32, 32)).astype(np.float32)}
    feeds = {"ids": rng.integers(0, 50, (batch, length))}
    if make is nets.Bert:
        mask = np.ones((batch, length), np.int64)
        mask[0, -2:] = 0
        feeds["mask"] = mask
    return feeds


def _export(make, dynamo: bool, path: Path) -> None:
    torch.manual_seed(0)
    module = nets.randomized(make())
    feeds = _inputs(make, 2, 7)
    args = tuple(torch.from_numpy(a) for a in feeds.values())
    free = {0: "batch"} if "x" in feeds else {0: "batch", 1: "length"}
    names = list(feeds)
    if dynamo:
        shapes = tuple({k: torch.export.Dim(v, min=1, max=64) for k, v in free.items()} for _ in names)
        program = torch.onnx.export(module, args, dynamo=True, input_names=names, dynamic_shapes=shapes, verbose=False)
        program.save(path)
    else:
        dynamic = {name: free for name in names}
        torch.onnx.export(module, args, path, dynamo=False, input_names=names, dynamic_axes=dynamic)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_cut_equals_zeroed(name: str, tmp_path: Path) -> None:
    make, dynamo, expected = CASES[name]
    path, target = tmp_path / "model.onnx", Target()
    _export(make, dynamo, path)
    clean, shapes = prepared(load(path), path, _inputs(make, 2, 7), Context(tmp_path, None, target))
    structure = analyse(clean, shapes)
    found = Counter(len(group.units) for group in structure.groups)
    assert Counter(expected) <= found, (found, structure.barriers)
    for seed, share in enumerate((0.25, 0.5, 0.75)):
        rng = np.random.default_rng(seed)
        dead = [
            int(unit)
            for group in structure.groups
            for unit in rng.choice(group.units, max(1, int(share * len(group.units))), replace=False)
        ]
        small, null = tmp_path / f"cut{seed}.onnx", tmp_path / f"zeroed{seed}.onnx"
        save(cut(clean, shapes, dead), small)
        save(zeroed(clean, structure, dead), null)
        onnx.checker.check_model(small, full_check=True)
        first, second = open_session(small, target), open_session(null, target)
        for batch, length in ((1, 7), (3, 7), (2, 11)):
            feeds = _inputs(make, batch, length)
            got, want = first.run(feeds), second.run(feeds)
            for key, value in want.items():
                np.testing.assert_allclose(got[key], value, rtol=0, atol=1e-5 * float(np.abs(value).max()))
