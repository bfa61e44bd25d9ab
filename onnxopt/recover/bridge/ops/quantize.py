"""Quantization with straight-through gradients (Bengio et al. 2013): rounding passes them, saturation stops them.

Codes that are computed are held as whole numbers in floats, so that shapes may be changed between quantizing and
dequantizing without losing the gradient.
"""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.bridge.ops.convolution import CONVOLUTIONS, flat_pads, same_pads
from onnxopt.recover.bridge.ops.matmul import narrowed, widened
from onnxopt.recover.bridge.site import Function, Site, kind_of, operator
from onnxopt.recover.bridge.types import INTEGER_RANGE

WHOLE = "only integer codes can be trained through"


def rounded(x: Tensor) -> Tensor:
    """Half to even; the gradient passes."""
    return x + (torch.round(x) - x).detach()


def spread(values: Tensor, shape: torch.Size, axis: int, block: int) -> Tensor:
    """Scales or zero points of tensors, slices or blocks in a shape that broadcasts to ``shape``."""
    if values.numel() == 1:
        return values.reshape(())
    if not shape:
        return values
    axis %= len(shape)
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, shape[axis])
    return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])


@operator("QuantizeLinear")
@operator("QuantizeLinear", domain="com.microsoft")
def quantize(site: Site) -> Function:
    """``saturate(round(x / scale) + zero)``."""
    axis, block = site.int("axis", 1), site.int("block_size", 0)
    kind = kind_of(site.node.inputs[2]) if site.has(2) else None
    asked = site.int("output_dtype", 0)
    kind = kind or (ir.DataType(asked) if asked else ir.DataType.UINT8)
    if kind not in INTEGER_RANGE:
        raise site.refuse(f"codes of type {kind.name}", WHOLE)
    low, high = INTEGER_RANGE[kind]

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        wide = x if x.is_floating_point() else x.to(scale.dtype)
        codes = rounded(wide / spread(scale, x.shape, axis, block).to(wide.dtype))
        if zero is not None:
            codes = codes + spread(zero, x.shape, axis, block).to(codes.dtype)
        return torch.clamp(codes, low, high)

    return run


@operator("DequantizeLinear")
@operator("DequantizeLinear", domain="com.microsoft")
def dequantize(site: Site) -> Function:
    """``(x - zero) scale``."""
    axis, block = site.int("axis", 1), site.int("block_size", 0)
    kind = kind_of(site.node.inputs[0])
    if kind is not None and kind not in INTEGER_RANGE:
        raise site.refuse(f"codes of type {kind.name}", WHOLE)
    wanted = site.type("output_dtype", None)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        codes = x.to(scale.dtype)
        if zero is not None:
            codes = codes - spread(zero, x.shape, axis, block).to(codes.dtype)
        found = codes * spread(scale, x.shape, axis, block)
        return found if wanted is None else found.to(wanted)

    return run


@operator("DynamicQuantizeLinear")
def dynamic_quantize(site: Site) -> Function:
    """Codes of 8 bits for the range of the value itself, widened to hold zero."""
    del site

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            low, high = torch.clamp(x.amin(), max=0), torch.clamp(x.amax(), min=0)
            scale = (high - low) / 255
            scale = torch.where(scale == 0, torch.ones_like(scale), scale)
            zero = torch.clamp(torch.round(-low / scale), 0, 255)
        return torch.clamp(rounded(x / scale) + zero, 0, 255), scale, zero

    return run


@operator("ConvInteger")
def conv_integer(site: Site) -> Function:
    """A convolution of codes less their zero points."""
    strides, dilations, pads = site.ints("strides"), site.ints("dilations"), site.ints("pads")
    auto, group = site.string("auto_pad", "NOTSET"), site.int("group", 1)

    def run(x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Tensor:
        a, b = widened(x, w)
        a = a if x_zero is None else a - x_zero.to(a.dtype)
        b = b if w_zero is None else b - spread(w_zero, w.shape, 0, 0).to(b.dtype)
        return narrowed(_conv(a, b, None, strides, dilations, pads, auto, group), x, w)

    return run


@operator("QLinearConv")
def qlinear_conv(site: Site) -> Function:
    """A convolution of quantized values with a quantized result."""
    strides, dilations, pads = site.ints("strides"), site.ints("dilations"), site.ints("pads")
    auto, group = site.string("auto_pad", "NOTSET"), site.int("group", 1)
    low, high = _range(site, 7)

    def run(
        x: Tensor,
        xs: Tensor,
        xz: Tensor,
        w: Tensor,
        ws: Tensor,
        wz: Tensor,
        ys: Tensor,
        yz: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        a, b = widened(x, w)
        a, b = a - xz.to(a.dtype), b - spread(wz, w.shape, 0, 0).to(b.dtype)
        found = _conv(a, b, None if bias is None else bias.to(a.dtype), strides, dilations, pads, auto, group)
        factor = xs * ws / ys
        factor = factor.reshape(()) if factor.numel() == 1 else factor.reshape(1, -1, *[1] * (found.ndim - 2))
        return torch.clamp(rounded(found * factor) + yz.to(found.dtype), low, high)

    return run


@operator("QLinearMatMul")
def qlinear_matmul(site: Site) -> Function:
    """A product of quantized values with a quantized result."""
    low, high = _range(site, 7)

    def run(a: Tensor, sa: Tensor, za: Tensor, b: Tensor, sb: Tensor, zb: Tensor, sy: Tensor, zy: Tensor) -> Tensor:
        x, y = widened(a, b)
        sa, za = (t.unsqueeze(-1) if t.ndim and t.numel() > 1 and t.shape[-1] != 1 else t for t in (sa, za))
        sb, zb = (t.unsqueeze(-2) if t.ndim > 1 and t.shape[-2] != 1 else t for t in (sb, zb))
        found = torch.matmul(x - za.to(x.dtype), y - zb.to(y.dtype)) * (sa.to(x.dtype) * sb.to(x.dtype))
        return torch.clamp(rounded(found / sy.to(x.dtype)) + zy.to(x.dtype), low, high)

    return run


def _range(site: Site, index: int) -> tuple[int, int]:
    kind = kind_of(site.node.inputs[index])
    if kind is None or kind not in INTEGER_RANGE:
        raise site.refuse("a result whose type the graph does not say", WHOLE)
    return INTEGER_RANGE[kind]


def _conv(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    strides: list[int] | None,
    dilations: list[int] | None,
    pads: list[int] | None,
    auto: str,
    group: int,
) -> Tensor:
    rank = w.ndim - 2
    step, dilation, around = strides or [1] * rank, dilations or [1] * rank, pads or [0] * (2 * rank)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        extent = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
        around = same_pads(auto, x.shape[2:], extent, step)
    return CONVOLUTIONS[rank](F.pad(x, flat_pads(around)), w, bias, step, 0, dilation, group)
