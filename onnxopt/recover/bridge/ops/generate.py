"""Values that come from nothing or from sizes only."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor

from onnxopt.recover.bridge.site import Function, Site, Unary, operator
from onnxopt.recover.bridge.types import integers


@operator("Constant")
def constant(site: Site) -> Function:
    """The value of an attribute."""
    for name, attribute in site.node.attributes.items():
        match name:
            case "value":
                value = site.types.tensor(attribute.as_tensor(), site.where)
            case "value_float":
                value = torch.tensor(attribute.as_float(), dtype=torch.float32)
            case "value_floats":
                value = torch.tensor(list(attribute.as_floats()), dtype=torch.float32)
            case "value_int":
                value = torch.tensor(attribute.as_int(), dtype=torch.int64)
            case "value_ints":
                value = torch.tensor(list(attribute.as_ints()), dtype=torch.int64)
            case _:
                continue
        return partial(_same, value)
    raise site.refuse("a constant of strings or in sparse form")


def _same(value: Tensor) -> Tensor:
    return value


@operator("ConstantOfShape")
def constant_of_shape(site: Site) -> Function:
    """One value everywhere."""
    attribute, shape = site.attribute("value"), site.listed(0)
    value = torch.zeros(1) if attribute is None else site.types.tensor(attribute.as_tensor(), site.where).reshape(1)
    fill = value[0].item()

    def run(given: Tensor) -> Tensor:
        return torch.full(shape(given) or [], fill, dtype=value.dtype, device=given.device)

    return run


@operator("Range")
def range_(site: Site) -> Function:
    """Numbers from a start by steps, up to a limit."""
    del site

    def run(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        first, end, step = start.item(), limit.item(), delta.item()
        count = max(0, -int(-(end - first) // step)) if isinstance(first, int) else _steps(first, end, step)
        return start + torch.arange(count, device=start.device, dtype=start.dtype) * delta

    return run


def _steps(first: float, end: float, step: float) -> int:
    return max(0, int(-((end - first) / step) // 1 * -1))


@operator("EyeLike")
def eye_like(site: Site) -> Unary:
    """Ones on a diagonal."""
    kind, k = site.type("dtype", None), site.int("k", 0)

    def run(x: Tensor) -> Tensor:
        rows, columns = x.shape
        ones = torch.ones(rows, columns, dtype=x.dtype if kind is None else kind, device=x.device)
        return torch.tril(torch.triu(ones, k), k)

    return run


@operator("BlackmanWindow", "HannWindow", "HammingWindow")
def window(site: Site) -> Unary:
    """A window of the given size."""
    kind = site.type("output_datatype", ir.DataType.FLOAT) or torch.float32
    periodic = bool(site.int("periodic", 1))
    weights = {"HannWindow": (0.5, 0.5, 0.0), "HammingWindow": (25 / 46, 21 / 46, 0.0)}
    a, b, c = weights.get(site.node.op_type, (0.42, 0.5, 0.08))

    def run(size: Tensor) -> Tensor:
        count = integers(size)[0]
        angle = torch.arange(count, dtype=torch.float64) * (2 * torch.pi / (count if periodic else count - 1))
        return (a - b * torch.cos(angle) + c * torch.cos(2 * angle)).to(kind).to(size.device)

    return run


@operator("AffineGrid")
def affine_grid(site: Site) -> Function:
    """Where each element of a picture or volume comes from under an affine map."""
    corners, sizes = bool(site.int("align_corners", 0)), site.listed(1)

    def run(theta: Tensor, size: Tensor | None = None) -> Tensor:
        return torch.nn.functional.affine_grid(theta, sizes(size) or [], corners)

    return run
