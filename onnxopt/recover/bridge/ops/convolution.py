"""Convolution and its transpose, in one to three dimensions of space."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.bridge.site import Function, Site, operator

Convolve = Callable[..., Tensor]
CONVOLUTIONS: dict[int, Convolve] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Convolve] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def same_pads(auto: str, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """The pads (all begins, then all ends) that make the output as large as input / stride, rounded up.

    Args:
        auto: ``SAME_UPPER``: an odd one goes to the end; ``SAME_LOWER``: to the beginning.
        sizes: Of the input in space.
        kernel: Its extent, dilation included.
        strides: Steps.
    """
    begins: list[int] = []
    ends: list[int] = []
    for size, extent, stride in zip(sizes, kernel, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return begins + ends


def flat_pads(pads: Sequence[int]) -> list[int]:
    """ONNX pads (begins, then ends) in the order of ``torch.nn.functional.pad`` (last axis first)."""
    rank = len(pads) // 2
    return [n for axis in reversed(range(rank)) for n in (pads[axis], pads[rank + axis])]


@operator("Conv")
def conv(site: Site) -> Function:
    """Weight (out, in / group, *k)."""
    strides, dilations, pads = site.ints("strides"), site.ints("dilations"), site.ints("pads")
    auto, group = site.string("auto_pad", "NOTSET"), site.int("group", 1)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = weight.ndim - 2
        if rank not in CONVOLUTIONS:
            raise site.refuse(f"a convolution in {rank} dimensions of space")
        step, dilation = strides or [1] * rank, dilations or [1] * rank
        around = pads or [0] * (2 * rank)
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            extent = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
            around = same_pads(auto, x.shape[2:], extent, step)
        elif auto == "VALID":
            around = [0] * (2 * rank)
        if around[:rank] == around[rank:]:
            return CONVOLUTIONS[rank](x, weight, bias, step, around[:rank], dilation, group)
        return CONVOLUTIONS[rank](F.pad(x, flat_pads(around)), weight, bias, step, 0, dilation, group)

    return run


@operator("ConvTranspose")
def conv_transpose(site: Site) -> Function:
    """Weight (in, out / group, *k); what the pads name is cut off the result."""
    strides, dilations, pads = site.ints("strides"), site.ints("dilations"), site.ints("pads")
    auto, group = site.string("auto_pad", "NOTSET"), site.int("group", 1)
    shape, extra = site.ints("output_shape"), site.ints("output_padding")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = weight.ndim - 2
        if rank not in TRANSPOSED:
            raise site.refuse(f"a transposed convolution in {rank} dimensions of space")
        step, dilation = strides or [1] * rank, dilations or [1] * rank
        more, cut = extra or [0] * rank, pads or [0] * (2 * rank)
        extent = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
        wanted = None if shape is None else shape[-rank:]
        if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
            wanted = [size * s for size, s in zip(x.shape[2:], step, strict=True)]
        if wanted is not None:
            full = [(n - 1) * s + m + e for n, s, m, e in zip(x.shape[2:], step, more, extent, strict=True)]
            totals = [f - w for f, w in zip(full, wanted, strict=True)]
            small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
            cut = small + large if auto == "SAME_UPPER" else large + small
        elif auto == "VALID":
            cut = [0] * (2 * rank)
        if cut[:rank] == cut[rank:] and min(cut) >= 0:
            return TRANSPOSED[rank](x, weight, bias, step, cut[:rank], more, group, dilation)
        found = TRANSPOSED[rank](x, weight, None, step, 0, more, group, dilation)
        found = F.pad(found, flat_pads([-n for n in cut]))
        return found if bias is None else found + bias.reshape(-1, *[1] * rank)

    return run


@operator("GridSample")
def grid_sample(site: Site) -> Function:
    """Values of a picture or volume at given places."""
    words = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest"}
    mode = words.get(site.string("mode", "linear"), "bicubic")
    padding, corners = site.string("padding_mode", "zeros"), bool(site.int("align_corners", 0))

    def run(x: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(x, grid, mode, padding, corners)

    return run


@operator("Col2Im")
def col_to_im(site: Site) -> Function:
    """Columns of blocks added up to a picture."""
    strides, dilations, pads = site.ints("strides"), site.ints("dilations"), site.ints("pads")
    image, block = site.listed(1), site.listed(2)

    def run(x: Tensor, image_shape: Tensor, block_shape: Tensor) -> Tensor:
        size, kernel = image(image_shape) or [], block(block_shape) or []
        rank = len(size)
        around = pads or [0] * (2 * rank)
        if rank != 2 or around[:2] != around[2:]:
            raise site.refuse("columns of other than two dimensions, or padded unequally")
        return F.fold(
            x, tuple(size), tuple(kernel), tuple(dilations or (1, 1)), tuple(around[:2]), tuple(strides or (1, 1))
        )

    return run
