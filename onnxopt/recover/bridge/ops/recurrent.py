"""Recurrent layers, step by step: LSTM, GRU and RNN with all options of the specification."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.bridge.site import Function, Site, Unary, operator

Step = Callable[[Tensor, "list[Tensor]"], "list[Tensor]"]
"""The projected input of a step, and the states; the new states, the output first."""


@dataclass(frozen=True)
class Layer:
    """The attributes that all recurrent operators share.

    Attributes:
        directions: 1 for each direction: +1 forwards, -1 backwards.
        functions: The activation functions, those of each direction in turn.
        clip: Bound on what goes into an activation.
        batch_first: Whether the batch is the first axis.
    """

    directions: tuple[int, ...]
    functions: tuple[Unary, ...]
    clip: float
    batch_first: bool

    def clipped(self, x: Tensor) -> Tensor:
        """``x`` within the bound."""
        return x if self.clip == math.inf else torch.clamp(x, -self.clip, self.clip)


@dataclass(frozen=True)
class Direction:
    """What a cell computes with in one direction.

    Attributes:
        functions: The activation functions.
        clipped: Bounds what goes into them.
        r: Weights of the last output, (gates * hidden, hidden).
        wb: Bias of the input, (gates * hidden,).
        rb: Bias of the last output, (gates * hidden,).
        peep: Weights of the cell state in the gates, (3 * hidden,).
    """

    functions: tuple[Unary, ...]
    clipped: Unary
    r: Tensor
    wb: Tensor
    rb: Tensor
    peep: Tensor | None


Cell = Callable[[Direction], "tuple[Tensor, Step]"]
"""The bias that the projection of the input takes along, and the step."""


def _layer(site: Site, default: Sequence[str]) -> Layer:
    direction = site.string("direction", "forward")
    directions = {"forward": (1,), "reverse": (-1,)}.get(direction, (1, -1))
    attribute = site.attribute("activations")
    names = list(default) * len(directions) if attribute is None else list(attribute.as_strings())
    alphas, betas = (site.attribute(n) for n in ("activation_alpha", "activation_beta"))
    alpha = [] if alphas is None else list(alphas.as_floats())
    beta = [] if betas is None else list(betas.as_floats())
    functions = tuple(_activation(site, name, alpha, beta) for name in names)
    clip = site.float("clip", math.inf)
    return Layer(directions, functions, clip if clip > 0 else math.inf, bool(site.int("layout", 0)))


def _activation(site: Site, name: str, alphas: list[float], betas: list[float]) -> Unary:
    def take(values: list[float], default: float) -> float:
        return values.pop(0) if values else default

    match name.lower():
        case "sigmoid":
            return torch.sigmoid
        case "tanh":
            return torch.tanh
        case "relu":
            return torch.relu
        case "softsign":
            return F.softsign
        case "softplus":
            return F.softplus
        case "affine":
            a, b = take(alphas, 1.0), take(betas, 0.0)
            return lambda x: a * x + b
        case "leakyrelu":
            a = take(alphas, 0.01)
            return lambda x: F.leaky_relu(x, a)
        case "thresholdedrelu":
            a = take(alphas, 1.0)
            return lambda x: torch.where(x > a, x, torch.zeros_like(x))
        case "scaledtanh":
            a, b = take(alphas, 1.0), take(betas, 1.0)
            return lambda x: a * torch.tanh(b * x)
        case "hardsigmoid":
            a, b = take(alphas, 0.2), take(betas, 0.5)
            return lambda x: torch.clamp(a * x + b, 0, 1)
        case "elu":
            a = take(alphas, 1.0)
            return lambda x: F.elu(x, a)
        case _:
            raise site.refuse(f"the activation function {name!r}")


def _run(
    layer: Layer, count: int, lengths: Tensor | None, starts: Sequence[Tensor], steps: Sequence[tuple[Tensor, Step]]
) -> tuple[Tensor, ...]:
    """The outputs of all steps (seq, directions, batch, hidden), and the last states (directions, batch, hidden).

    Args:
        layer: Directions and layout.
        count: Of the steps.
        lengths: How long each sequence is.
        starts: The states before the first step, each (directions, batch, hidden).
        steps: For each direction, the input after its projection (seq, batch, gates) and the step.
    """
    outputs: list[Tensor] = []
    last: list[list[Tensor]] = []
    for index, (direction, (projected, step)) in enumerate(zip(layer.directions, steps, strict=True)):
        states = [start[index] for start in starts]
        found: list[Tensor | None] = [None] * count
        for t in range(count) if direction > 0 else reversed(range(count)):
            new = step(projected[t], states)
            out = new[0]
            if lengths is not None:
                alive = (t < lengths).unsqueeze(-1)
                states = [torch.where(alive, a, b) for a, b in zip(new, states, strict=True)]
                out = torch.where(alive, out, torch.zeros_like(out))
            else:
                states = new
            found[t] = out
        outputs.append(torch.stack([o for o in found if o is not None]))
        last.append(states)
    whole = torch.stack(outputs, 1)
    finals = [torch.stack([states[i] for states in last]) for i in range(len(starts))]
    if layer.batch_first:
        return (whole.permute(2, 0, 1, 3), *(f.transpose(0, 1) for f in finals))
    return (whole, *finals)


def _recurrent(site: Site, default: Sequence[str], cell: Cell, *, states: int = 1) -> Function:
    """The operator whose directions ``cell`` makes, with so many activation functions and states each."""
    layer, count = _layer(site, default), len(default)

    def run(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        start: Tensor | None = None,
        memory: Tensor | None = None,
        peep: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        data = x.transpose(0, 1) if layer.batch_first else x
        zero = x.new_zeros(len(layer.directions), data.shape[1], r.shape[-1])
        given = [start, memory][:states]
        before = [zero if s is None else s.transpose(0, 1) if layer.batch_first else s for s in given]
        steps: list[tuple[Tensor, Step]] = []
        for d in range(len(layer.directions)):
            functions = layer.functions[count * d : count * (d + 1)]
            wb, rb = (w.new_zeros(2 * w.shape[1]) if b is None else b[d]).chunk(2)
            bias, step = cell(Direction(functions, layer.clipped, r[d], wb, rb, None if peep is None else peep[d]))
            steps.append((F.linear(data, w[d], bias), step))
        return _run(layer, len(data), lengths, before, steps)

    return run


@operator("RNN")
def rnn(site: Site) -> Function:
    """``h = f(x W' + h R' + b)``."""

    def cell(at: Direction) -> tuple[Tensor, Step]:
        (f,) = at.functions

        def step(now: Tensor, before: list[Tensor]) -> list[Tensor]:
            return [f(at.clipped(now + F.linear(before[0], at.r)))]

        return at.wb + at.rb, step

    return _recurrent(site, ["Tanh"], cell)


@operator("GRU")
def gru(site: Site) -> Function:
    """Gates in the order update, reset, hidden."""
    reset_after = bool(site.int("linear_before_reset", 0))

    def cell(at: Direction) -> tuple[Tensor, Step]:
        f, g = at.functions
        size = 2 * at.r.shape[-1]
        gates, last = at.r[:size], at.r[size:]

        def step(now: Tensor, before: list[Tensor]) -> list[Tensor]:
            h = before[0]
            both = f(at.clipped(now[:, :size] + F.linear(h, gates, at.rb[:size])))
            update, reset = both.chunk(2, -1)
            bias = at.rb[size:]
            inner = reset * F.linear(h, last, bias) if reset_after else F.linear(reset * h, last, bias)
            new = g(at.clipped(now[:, size:] + inner))
            return [(1 - update) * new + update * h]

        return at.wb, step

    return _recurrent(site, ["Sigmoid", "Tanh"], cell)


@operator("LSTM")
def lstm(site: Site) -> Function:
    """Gates in the order input, output, forget, cell."""
    coupled = bool(site.int("input_forget", 0))

    def cell(at: Direction) -> tuple[Tensor, Step]:
        f, g, h = at.functions
        looks = None if at.peep is None else at.peep.chunk(3)  # input, output, forget

        def step(now: Tensor, before: list[Tensor]) -> list[Tensor]:
            c = before[1]
            i, o, forget, new = (now + F.linear(before[0], at.r)).chunk(4, -1)
            if looks is not None:
                i, forget = i + looks[0] * c, forget + looks[2] * c
            i = f(at.clipped(i))
            forget = 1 - i if coupled else f(at.clipped(forget))
            c = forget * c + i * g(at.clipped(new))
            o = o if looks is None else o + looks[1] * c
            return [f(at.clipped(o)) * h(c), c]

        return at.wb + at.rb, step

    return _recurrent(site, ["Sigmoid", "Tanh", "Tanh"], cell, states=2)
