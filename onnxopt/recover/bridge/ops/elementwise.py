"""Arithmetic element by element: functions of one value, of two, of several."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.bridge.site import OPERATORS, Binary, Function, Site, Unary, operator

UNARY: dict[str, Unary] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Det": torch.det,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Identity": lambda x: x,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": lambda x: torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device)),
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
BINARY: dict[str, Binary] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


def _register() -> None:
    for name, unary in UNARY.items():
        OPERATORS.setdefault(("", name), {})[1] = lambda site, f=unary: f
    for name, binary in BINARY.items():
        OPERATORS.setdefault(("", name), {})[1] = lambda site, f=binary: _broadcast(site, f)


def _broadcast(site: Site, function: Binary) -> Binary:
    """Before opset 7 shapes had to be equal, or ``broadcast`` put the second value at ``axis`` of the first."""
    if site.version >= 7 or not site.int("broadcast", 0):
        return function
    axis = site.attribute("axis")
    if axis is None:
        return function
    start = axis.as_int()

    def run(x: Tensor, y: Tensor) -> Tensor:
        begin = start if start >= 0 else x.ndim + start
        return function(x, y.reshape(*y.shape, *[1] * (x.ndim - begin - y.ndim)))

    return run


@operator("Div")
def div(site: Site) -> Binary:
    """The quotient; of integers, cut off towards zero."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        return torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")

    return _broadcast(site, run)


@operator("Pow")
def power(site: Site) -> Binary:
    """The power, in the type of the base."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        return torch.pow(x, y).to(x.dtype)

    return _broadcast(site, run)


@operator("Mod")
def mod(site: Site) -> Binary:
    """The remainder: of the sign of the divisor, or with ``fmod`` of the dividend."""
    return torch.fmod if site.int("fmod", 0) else torch.remainder


@operator("BitShift")
def shift(site: Site) -> Binary:
    """Bits moved left or right."""
    return torch.bitwise_left_shift if site.string("direction", "LEFT") == "LEFT" else torch.bitwise_right_shift


@operator("Max", "Min", "Sum", "Mean")
def several(site: Site) -> Function:
    """One of these over any number of values."""
    pair = {"Max": torch.maximum, "Min": torch.minimum}.get(site.node.op_type, torch.add)
    count = len(site.node.inputs) if site.node.op_type == "Mean" else 1

    def run(*values: Tensor) -> Tensor:
        total = reduce(pair, values)
        return total if count == 1 else total / count

    return run


@operator("Clip")
def clip(site: Site) -> Function:
    """Values brought into a range; the ends are attributes before opset 11."""
    if site.version < 11:
        return _clamp(site.float("min", -math.inf), site.float("max", math.inf))
    low, high = site.number(1, "", None), site.number(2, "", None)
    is_known = all(not site.has(i) or site.constant(i) is not None for i in (1, 2))
    if is_known:
        return _clamp(low(None), high(None))

    def run(x: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
        x = x if least is None else torch.maximum(x, least)
        return x if most is None else torch.minimum(x, most)

    return run


def _clamp(least: float | None, most: float | None) -> Function:
    def run(x: Tensor, *ends: Tensor | None) -> Tensor:
        del ends
        return x if least is None and most is None else torch.clamp(x, least, most)

    return run


@operator("LeakyRelu")
def leaky_relu(site: Site) -> Unary:
    """``x`` or ``alpha x``."""
    alpha = site.float("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(site: Site) -> Binary:
    """``x`` or ``slope x``; before opset 7 the slope belonged to the channels."""

    def run(x: Tensor, slope: Tensor) -> Tensor:
        if site.version < 7 and slope.ndim == 1 and slope.numel() > 1:
            slope = slope.reshape(-1, *[1] * (x.ndim - 2))
        return torch.where(x < 0, x * slope, x)

    return run


@operator("Elu")
def elu(site: Site) -> Unary:
    """``alpha (exp(x) - 1)`` below zero."""
    alpha = site.float("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@operator("Celu")
def celu(site: Site) -> Unary:
    """``alpha (exp(x / alpha) - 1)`` below zero."""
    alpha = site.float("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@operator("Selu")
def selu(site: Site) -> Unary:
    """``gamma x`` or ``gamma alpha (exp(x) - 1)``."""
    alpha, gamma = site.float("alpha", 1.67326319217681884765625), site.float("gamma", 1.05070102214813232421875)
    return lambda x: gamma * (torch.clamp(x, min=0) + alpha * torch.expm1(torch.clamp(x, max=0)))


@operator("HardSigmoid")
def hard_sigmoid(site: Site) -> Unary:
    """``max(0, min(1, alpha x + beta))``."""
    alpha, beta = site.float("alpha", 0.2), site.float("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


@operator("ThresholdedRelu")
def thresholded_relu(site: Site) -> Unary:
    """``x`` above ``alpha``, else zero."""
    alpha = site.float("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Shrink")
def shrink(site: Site) -> Unary:
    """Values towards zero by ``bias``; zero between ``-lambd`` and ``lambd``."""
    bias, lambd = site.float("bias", 0.0), site.float("lambd", 0.5)

    def run(x: Tensor) -> Tensor:
        zero = torch.zeros_like(x)
        return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero)).to(x.dtype)

    return run


@operator("Swish")
def swish(site: Site) -> Unary:
    """``x sigmoid(alpha x)``."""
    alpha = site.float("alpha", 1.0)
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("Gelu")
@operator("Gelu", domain="com.microsoft")
def gelu(site: Site) -> Unary:
    """``x Phi(x)``, or its approximation by tanh."""
    approximate = site.string("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


@operator("QuickGelu", domain="com.microsoft")
def quick_gelu(site: Site) -> Unary:
    """``x sigmoid(alpha x)``."""
    alpha = site.float("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("FastGelu", "BiasGelu", domain="com.microsoft")
def bias_gelu(site: Site) -> Function:
    """Gelu of the sum with a bias."""
    approximate = "tanh" if site.node.op_type == "FastGelu" else "none"

    def run(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.gelu(x if bias is None else x + bias, approximate=approximate)

    return run


@operator("IsInf")
def is_inf(site: Site) -> Unary:
    """Where values are infinite, of one sign or of both."""
    negative, positive = site.int("detect_negative", 1), site.int("detect_positive", 1)
    return lambda x: torch.isinf(x) & ((x < 0 if negative else x > 0) | (x > 0 if positive else x < 0))


@operator("Where")
def where(site: Site) -> Function:
    """One of two values by a condition."""
    del site
    return torch.where


@operator("Dropout")
def dropout(site: Site) -> Function:
    """The value itself: nothing is dropped outside training, and the graph says that it is used so."""
    training = site.constant(2)
    if site.has(2) and (training is None or bool(training)):
        raise site.refuse("the node is in training mode and draws random numbers", "export the model in eval mode")
    if site.version < 7 and not site.int("is_test", 0):
        raise site.refuse("the node is in training mode and draws random numbers", "export the model in eval mode")
    wants_mask = site.is_wanted(1)
    as_bool = site.version >= 10

    def run(x: Tensor, *rest: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        del rest
        return (x, torch.ones_like(x, dtype=torch.bool if as_bool else x.dtype)) if wants_mask else x

    return run


_register()
