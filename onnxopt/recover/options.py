"""What a training run is told: its recipe, as it goes into the metadata of what is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

from onnxopt.errors import UsageError, nearest

__all__ = ["AUGMENTATIONS", "LOSSES", "OPTIMIZERS", "SCHEDULES", "Loss", "Optimizer", "Schedule", "Training"]

Loss: TypeAlias = Literal["auto", "kl", "mse", "cosine"]
Optimizer: TypeAlias = Literal["sgd", "momentum", "adam", "adamw", "rmsprop"]
Schedule: TypeAlias = Literal["constant", "step", "exponential", "cosine"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
AUGMENTATIONS = ("shift", "flip", "crop", "mixup")


@dataclass(frozen=True)
class Training:
    """The recipe of a run; equal recipes, models and data give equal bytes.

    Attributes:
        teachers: Content hashes of the teachers; none: the labels alone teach.
        loss: What is made small at each output; ``"auto"``: what fits the teacher's answers.
        temperature: T of ``T^2 KL(softmax(teacher / T) || softmax(student / T))`` (Hinton et al. 2015).
        teacher_weight: lambda of ``lambda KL + (1 - lambda) cross entropy`` where there are labels.
        features: Pairs of values of student and teacher that are to be alike.
        feature_weight: Weight of their normalised squared error.
        optimizer: How gradients become steps.
        lr: Largest learning rate; ``None``: what fits the optimizer and the kind of network.
        momentum: Of ``"momentum"`` and ``"rmsprop"``.
        weight_decay: Of all optimizers; decoupled in ``"adamw"``.
        schedule: How the learning rate goes down.
        warmup: Steps in which it goes up from zero, at most a tenth of all.
        clip: Largest norm of a gradient; 0: any.
        steps: Most steps.
        batch: Samples of a step.
        augment: How images are varied.
        patience: Looks at the held-back loss without a new best after which training stops; 0: it never does.
        freeze: Patterns of weights and nodes, or op types, that stay as they are.
        seed: Of all random choices.
    """

    name: ClassVar[str] = "train"

    teachers: tuple[str, ...] = ()
    loss: Loss = "auto"
    temperature: float = 2.0
    teacher_weight: float = 0.9
    features: tuple[tuple[str, str], ...] = ()
    feature_weight: float = 1.0
    optimizer: Optimizer = "adamw"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    warmup: int = 20
    clip: float = 1.0
    steps: int = 300
    batch: int = 32
    augment: tuple[str, ...] = ()
    patience: int = 6
    freeze: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: One is not known, or makes no sense.
        """
        for option, value, known in (
            ("--loss", self.loss, LOSSES),
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--schedule", self.schedule, SCHEDULES),
            *(("--augment", a, AUGMENTATIONS) for a in self.augment),
        ):
            if value not in known:
                raise UsageError(f"{value!r} is not known", where=option, fix=nearest(value, known))
        for option, number, low, high in (
            ("--temperature", self.temperature, 1e-3, 1e3),
            ("--teacher-weight", self.teacher_weight, 0, 1),
            ("--feature-weight", self.feature_weight, 0, 1e6),
            ("--lr", 1e-3 if self.lr is None else self.lr, 1e-12, 1e3),
            ("--momentum", self.momentum, 0, 0.9999),
            ("--weight-decay", self.weight_decay, 0, 1e3),
            ("--warmup", self.warmup, 0, 1e9),
            ("--clip", self.clip, 0, 1e9),
            ("--steps", self.steps, 1, 1e9),
            ("--batch", self.batch, 1, 1e6),
            ("--patience", self.patience, 0, 1e9),
        ):
            if not low <= number <= high:
                raise UsageError(
                    f"{number:g} is out of range", where=option, fix=f"give a number from {low:g} to {high:g}"
                )

    def rate(self, step: int, peak: float) -> float:
        """The learning rate of a step, counted from 0."""
        warmup = min(self.warmup, self.steps // 10)
        if step < warmup:
            return peak * (step + 1) / warmup
        share = (step - warmup) / max(1, self.steps - warmup)
        match self.schedule:
            case "constant":
                return peak
            case "step":
                return peak * 0.1 ** int(share * 3)
            case "exponential":
                return peak * 0.01**share
            case "cosine":
                from math import cos, pi

                return peak * 0.5 * (1 + cos(pi * share))
