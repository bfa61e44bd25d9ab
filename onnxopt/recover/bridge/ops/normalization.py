"""Normalization as it is used after training: statistics of the batch are constants, all others are computed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.bridge.site import Function, Site, Unary, operator
from onnxopt.recover.bridge.types import norm

EVAL_MODE = "export the model in eval mode"


@operator("BatchNormalization")
def batch_norm(site: Site) -> Function:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` for each channel, with the stored mean and variance."""
    if site.int("training_mode", 0) or any(site.is_wanted(i) for i in range(1, 5)):
        raise site.refuse("the node is in training mode", EVAL_MODE)
    if site.version < 7 and not site.int("is_test", 0):
        raise site.refuse("the node is in training mode", EVAL_MODE)
    if not site.int("spatial", 1):
        raise site.refuse("statistics of single places (spatial = 0)")
    epsilon = site.float("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        if x.ndim < 2 or not scale.dtype == x.dtype == mean.dtype:
            shape = [-1, *[1] * (x.ndim - 2)] if x.ndim > 1 else [-1]
            factor = scale.to(mean.dtype) / torch.sqrt(var + epsilon)
            found = (x.to(mean.dtype) - mean.reshape(shape)) * factor.reshape(shape)
            return (found + bias.to(mean.dtype).reshape(shape)).to(x.dtype)
        return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)

    return run


@operator("InstanceNormalization")
def instance_norm(site: Site) -> Function:
    """Each channel of each sample to mean 0 and variance 1, then scaled and moved."""
    epsilon = site.float("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return torch.group_norm(x, x.shape[1], scale, bias, epsilon)

    return run


@operator("GroupNormalization", since=18)
def group_norm(site: Site) -> Function:
    """Each group of channels to mean 0 and variance 1; scale and bias for each group, since opset 21 each channel."""
    epsilon, groups = site.float("epsilon", 1e-5), site.int("num_groups", 1)
    by_channel = site.version >= 21

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if not by_channel:
            each = x.shape[1] // groups
            scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
        return torch.group_norm(x, groups, scale, bias, epsilon)

    return run


@operator("LayerNormalization", since=1)
def layer_norm(site: Site) -> Function:
    """The axes from ``axis`` on to mean 0 and variance 1, then scaled and moved; with the statistics if asked for."""
    axis, epsilon = site.int("axis", -1), site.float("epsilon", 1e-5)
    wants_more = site.is_wanted(1) or site.is_wanted(2)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        shape = x.shape[axis:] if axis < 0 else x.shape[axis - x.ndim :]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            found = F.layer_norm(x, shape, scale, bias, epsilon)
        else:
            found = F.layer_norm(x, shape, None, None, epsilon) * scale
            found = found if bias is None else found + bias
        if not wants_more:
            return found
        axes = list(range(x.ndim - len(shape), x.ndim))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean = wide.mean(axes, keepdim=True)
        deviation = torch.rsqrt(wide.var(axes, unbiased=False, keepdim=True) + epsilon)
        return found, mean, deviation

    return run


@operator("SkipLayerNormalization", domain="com.microsoft")
def skip_layer_norm(site: Site) -> Function:
    """Layer normalization of the sum of two values and a bias; with the sum if asked for."""
    epsilon = site.float("epsilon", 1e-12)
    if site.is_wanted(1) or site.is_wanted(2):
        raise site.refuse("the statistics of SkipLayerNormalization")
    wants_sum = site.is_wanted(3)

    def run(
        x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        total = x + skip if bias is None else x + skip + bias
        found = F.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
        return (found, found, found, total) if wants_sum else found

    return run


@operator("RMSNormalization")
def rms_norm(site: Site) -> Function:
    """``x / sqrt(mean(x^2) + epsilon) * scale`` over the axes from ``axis`` on."""
    axis, epsilon = site.int("axis", -1), site.float("epsilon", 1e-5)
    stash = site.type("stash_type", None)

    def run(x: Tensor, scale: Tensor) -> Tensor:
        axes = list(range(axis % x.ndim, x.ndim))
        wide = x.float() if stash is None and x.dtype in (torch.float16, torch.bfloat16) else x
        wide = wide if stash is None or wide.dtype == torch.float64 else wide.to(stash)
        normed = wide * torch.rsqrt((wide * wide).mean(axes, keepdim=True) + epsilon)
        return (normed.to(x.dtype) * scale).to(x.dtype)

    return run


@operator("LpNormalization")
def lp_norm(site: Site) -> Unary:
    """Each vector along an axis over its length; zero stays zero."""
    axis, p = site.int("axis", -1), float(site.int("p", 2))

    def run(x: Tensor) -> Tensor:
        length = norm(x, p, axis, keep=True)
        return x / torch.where(length == 0, torch.ones_like(length), length)

    return run


@operator("MeanVarianceNormalization")
def mean_variance(site: Site) -> Unary:
    """``(x - mean) / (sqrt(var) + 1e-9)`` over the given axes."""
    axes = site.ints("axes") or [0, 2, 3]

    def run(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred / (torch.sqrt((centred * centred).mean(axes, keepdim=True)) + 1e-9)

    return run


@operator("LRN")
def lrn(site: Site) -> Unary:
    """``x / (bias + alpha / size * sum x^2)^beta``, the sum over ``size`` neighbouring channels."""
    alpha, beta, bias = site.float("alpha", 1e-4), site.float("beta", 0.75), site.float("bias", 1.0)
    size = site.int("size", 1)

    def run(x: Tensor) -> Tensor:
        around = [0, 0] * (x.ndim - 2) + [(size - 1) // 2, size // 2]
        squares = F.pad(x * x, around).unfold(1, size, 1).sum(-1)
        return x / (bias + alpha / size * squares) ** beta

    return run
