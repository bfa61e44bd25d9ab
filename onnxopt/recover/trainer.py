"""The loop: steps over the training samples, a look at the held-back loss now and then, the best weights kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from onnxopt.core.progress import Progress
from onnxopt.errors import NothingChangedError
from onnxopt.recover.bridge.module import Bridge
from onnxopt.recover.bridge.types import tensor_from
from onnxopt.recover.bridge.writing import Weight
from onnxopt.recover.events import Events
from onnxopt.recover.heads import Head
from onnxopt.recover.losses import feature_loss, head_loss, label_loss
from onnxopt.recover.options import Training
from onnxopt.recover.samples import Call
from onnxopt.recover.state import State, load_state, save_state

__all__ = ["Lesson", "deterministic", "train"]

LOOKS = 20
"""Looks at the held-back loss in a run."""
CODES = 4.0
"""Codes that a weight on a grid can pass in a run, about twice."""
SAVE_SECONDS = 20.0
"""Time after which the state is written again."""


@dataclass(frozen=True)
class Lesson:
    """What is taught, and by which samples.

    Attributes:
        heads: The outputs with a loss.
        labelled: The output that labels belong to; ``None``: labels are not used.
        taught: Whether a teacher's answers count.
        step: The calls of a step.
        watched: The calls of the held-back samples.
    """

    heads: Sequence[Head]
    labelled: Head | None
    taught: bool
    step: Callable[[int], Sequence[Call]]
    watched: Callable[[], Sequence[Call]]


def train(
    bridge: Bridge,
    lesson: Lesson,
    recipe: Training,
    peak: float,
    *,
    progress: Progress,
    events: Events,
    time_limit: float | None = None,
    checkpoint: Path | None = None,
    key: str = "",
) -> State:
    """Trains the parameters that want gradients; the bridge holds the best ones afterwards.

    Args:
        bridge: The student.
        lesson: What is taught.
        recipe: How.
        peak: The learning rate.
        progress: Told of each step.
        events: Told of the losses.
        time_limit: Seconds after which training ends; the learning rate is then as low as after the last step.
        checkpoint: Where the state is kept; a state of the same run there is continued.
        key: Says which run it is.

    Raises:
        NothingChangedError: No gradient reaches a weight.
        OutputError: The state cannot be written.
    """
    trained = [w for w in bridge.weights if w.parameter.requires_grad]
    weights = [w.parameter for w in trained]
    optimizer = _optimizer(recipe, trained, peak)
    start, saved = time.monotonic(), time.monotonic()
    state = None if checkpoint is None else load_state(checkpoint, key, str(weights[0].device))
    if state is None:
        if checkpoint is not None and checkpoint.exists():
            progress.note(f"{checkpoint.name} is of another run, or damaged: training starts anew")
        state = State(0, _copies(weights), optimizer.state_dict(), _copies(weights))
        state.first_loss = state.best_loss = _watched_loss(bridge, lesson, recipe)
    else:
        _restore(weights, state.parameters)
        optimizer.load_state_dict(state.optimizer)
        progress.note(f"going on after step {state.step} of {recipe.steps}")
    before, sums = state.seconds, [0.0, 0]
    every = max(1, recipe.steps // LOOKS)
    with progress.task("training", recipe.steps) as advance:
        advance(state.step)
        while state.step < recipe.steps and not state.stopped:
            # A time limit that ends training early ends the schedule with it.
            late = 0.0 if time_limit is None else state.seconds / time_limit
            rate = recipe.rate(max(state.step, int(late * recipe.steps)), peak)
            for part in optimizer.param_groups:
                part["lr"] = rate * part["factor"]
            loss = _step(bridge, lesson, recipe, optimizer, weights, state.step)
            state.step += 1
            advance(1)
            events.add(state.step, loss_train=loss, learning_rate=rate)
            if not math.isfinite(loss):
                state.stopped = f"the loss of step {state.step} is {loss}"
                break
            sums[0], sums[1] = sums[0] + loss, sums[1] + 1
            if state.step % every == 0 or state.step == recipe.steps:
                _look(bridge, lesson, recipe, state, weights, (sums[0] / sums[1], rate))
                events.add(state.step, loss_held_back=state.history[-1][2])
                sums = [0.0, 0]
            state.seconds = before + time.monotonic() - start
            if time_limit is not None and state.seconds >= time_limit and not state.stopped:
                if state.history[-1:] == [] or state.history[-1][0] != state.step:
                    _look(bridge, lesson, recipe, state, weights, (sums[0] / max(1, sums[1]), rate))
                state.stopped = state.stopped or f"the time limit of {time_limit:g} s after step {state.step}"
            at_look = state.step % every == 0
            if (
                checkpoint is not None
                and at_look
                and (time.monotonic() - saved > SAVE_SECONDS or _is_first(state, every))
            ):
                state.parameters, state.optimizer = _copies(weights), optimizer.state_dict()
                save_state(checkpoint, state, key)
                saved = time.monotonic()
    _restore(weights, state.best)
    return state


@contextmanager
def deterministic(threads: int, seed: int) -> Generator[None]:
    """Torch on so many threads with kernels that give the same bits every time; the old settings return."""
    before, mode = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng():  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(mode, warn_only=warn)


def _is_first(state: State, every: int) -> bool:
    return state.step == every


def _step(
    bridge: Bridge,
    lesson: Lesson,
    recipe: Training,
    optimizer: torch.optim.Optimizer,
    weights: Sequence[Tensor],
    step: int,
) -> float:
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for call in lesson.step(step):
        loss = _loss(bridge, lesson, recipe, call) * call.share
        if not loss.requires_grad:
            raise NothingChangedError(
                "no gradient reaches a weight: the outputs that are taught do not depend on one that may change",
                where="the graph of the student",
                fix="freeze less, or teach other outputs",
            )
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        total += float(loss.detach())
    if not math.isfinite(total):
        return total
    if recipe.clip:
        norm = torch.nn.utils.clip_grad_norm_([w for w in weights if w.grad is not None], recipe.clip)
        if not math.isfinite(float(norm)):
            return math.nan
    optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    return total


def _look(
    bridge: Bridge,
    lesson: Lesson,
    recipe: Training,
    state: State,
    weights: Sequence[Tensor],
    said: tuple[float, float],
) -> None:
    """The held-back loss now; the best weights are kept, and training stops when it has not fallen for long."""
    loss = _watched_loss(bridge, lesson, recipe)
    state.history.append((state.step, said[0], loss, said[1]))
    if loss < state.best_loss:
        state.best, state.best_step, state.best_loss, state.bad = _copies(weights), state.step, loss, 0
        return
    state.bad += loss != state.best_loss  # weights on a grid may not have moved yet
    if not math.isfinite(loss):
        state.stopped = f"the held-back loss after step {state.step} is {loss}"
    elif recipe.patience and state.bad >= recipe.patience:
        state.stopped = f"no smaller held-back loss since step {state.best_step}"


def _watched_loss(bridge: Bridge, lesson: Lesson, recipe: Training) -> float:
    with torch.no_grad():
        return sum(float(_loss(bridge, lesson, recipe, call)) * call.share for call in lesson.watched())


def _loss(bridge: Bridge, lesson: Lesson, recipe: Training, call: Call) -> Tensor:
    found = bridge(bridge.feed(call.feeds))
    device = next(iter(found.values())).device
    use_labels = lesson.labelled is not None and call.labels is not None
    weight = (recipe.teacher_weight if use_labels else 1.0) if lesson.taught else 0.0
    parts: list[Tensor] = []
    if lesson.taught and weight:
        for head in lesson.heads:
            if head.name in call.answers:
                answer = tensor_from(call.answers[head.name]).to(device)
                parts.append(weight * head_loss(head, found[head.name], answer, recipe.temperature))
        for own, _ in recipe.features:
            answer = tensor_from(call.answers[own]).to(device)
            parts.append(recipe.feature_weight * feature_loss(found[own], answer))
    if lesson.labelled is not None and call.labels is not None and weight < 1:
        labels = tensor_from(call.labels).to(device)
        parts.append((1 - weight) * label_loss(lesson.labelled, found[lesson.labelled.name], labels))
    return torch.stack(parts).sum()


def _optimizer(recipe: Training, trained: Sequence[Weight], peak: float) -> torch.optim.Optimizer:
    decay = recipe.weight_decay
    groups = [{"params": [w.parameter], "factor": _factor(recipe, w, peak)} for w in trained]
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=peak, weight_decay=decay)
        case "momentum":
            return torch.optim.SGD(groups, lr=peak, momentum=recipe.momentum, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(groups, lr=peak, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(groups, lr=peak, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=peak, momentum=recipe.momentum, weight_decay=decay)


def _factor(recipe: Training, weight: Weight, peak: float) -> float:
    """How much larger the steps of a weight are: on a coarse grid it would else never reach the next code.

    An optimizer whose steps do not depend on the size of gradients goes about half of ``steps * rate`` in all.
    """
    if weight.grid is None or recipe.optimizer in ("sgd", "momentum"):
        return 1.0
    return max(1.0, float(weight.grid.scale.abs().mean()) * CODES / recipe.steps / peak)


def _copies(weights: Sequence[Tensor]) -> list[Tensor]:
    return [w.detach().clone() for w in weights]


def _restore(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)
