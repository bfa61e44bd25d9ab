"""Products: of matrices, of any axes, in floats and in integers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.bridge.site import Function, Site, operator


@operator("MatMul")
def matmul(site: Site) -> Function:
    """The product of the last two axes."""
    del site
    return torch.matmul


@operator("Gemm")
def gemm(site: Site) -> Function:
    """``alpha A' B' + beta C``."""
    alpha, beta = site.float("alpha", 1.0), site.float("beta", 1.0)
    first, second = bool(site.int("transA", 0)), bool(site.int("transB", 0))

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if first else a
        if alpha == beta == 1 and (c is None or c.ndim == 1) and a.is_floating_point():
            return F.linear(a, b if second else b.t(), c)
        product = torch.matmul(a, b.t() if second else b)
        product = product if alpha == 1 else (product * alpha).to(a.dtype)
        if c is None or beta == 0:
            return product
        return product + (c if beta == 1 else (c * beta).to(a.dtype))

    return run


@operator("Einsum")
def einsum(site: Site) -> Function:
    """Sums of products as an equation says."""
    equation = site.string("equation", "").replace(" ", "")
    return lambda *values: torch.einsum(equation, *values)


@operator("FusedMatMul", domain="com.microsoft")
def fused_matmul(site: Site) -> Function:
    """``alpha A' B'``."""
    if site.int("transBatchA", 0) or site.int("transBatchB", 0):
        raise site.refuse("a batch axis that is transposed into the product")
    alpha, first, second = site.float("alpha", 1.0), site.int("transA", 0), site.int("transB", 0)

    def run(a: Tensor, b: Tensor) -> Tensor:
        a = a.transpose(-1, -2) if first and a.ndim > 1 else a
        b = b.transpose(-1, -2) if second and b.ndim > 1 else b
        return torch.matmul(a, b) * alpha

    return run


@operator("MatMulInteger")
def matmul_integer(site: Site) -> Function:
    """The product of codes less their zero points; codes that come from QuantizeLinear let gradients through."""
    del site

    def run(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        x, y = widened(a, b)
        if a_zero is not None:
            zero = a_zero.to(x.dtype)
            x = x - (zero.unsqueeze(-1) if zero.ndim and zero.shape[-1] != 1 else zero)
        if b_zero is not None:
            zero = b_zero.to(y.dtype)
            y = y - (zero.unsqueeze(-2) if zero.ndim > 1 and zero.shape[-2] != 1 else zero)
        return narrowed(torch.matmul(x, y), a, b)

    return run


def widened(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Codes as floats that hold their products: float64 where nothing is trained, else float32."""
    kind = torch.float32 if a.is_floating_point() or b.is_floating_point() else torch.float64
    return a.to(kind), b.to(kind)


def narrowed(found: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The result as an integer where both factors were, else as it is."""
    return found if a.is_floating_point() or b.is_floating_point() else found.to(torch.int32)
