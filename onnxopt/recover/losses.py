"""Losses in torch, each the mean over what it compares.

Sources: knowledge distillation, Hinton, Vinyals and Dean 2015 (``T^2 KL(softmax(t / T) || softmax(s / T))``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.heads import Head

__all__ = ["feature_loss", "head_loss", "label_loss"]

TINY = 1e-12


def head_loss(head: Head, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far an output is from the teacher's answer."""
    student, teacher = student.float(), teacher.float()
    match head.kind:
        case "kl":
            s, t = (_logits(x, probabilities=head.probabilities) / temperature for x in (student, teacher))
            target = torch.log_softmax(t, head.axis)
            distance = (target.exp() * (target - torch.log_softmax(s, head.axis))).sum(head.axis)
            return temperature**2 * distance.mean()
        case "bce":
            inner = student.clamp(TINY, 1 - 1e-7)
            t = teacher.clamp(0, 1)
            own = -(torch.xlogy(t, t) + torch.xlogy(1 - t, 1 - t))  # so that no distance is left at the answer itself
            return (F.binary_cross_entropy(inner, t, reduction="none") - own).mean()
        case "mse":
            return ((student - teacher) ** 2).mean() / head.scale
        case "cosine":
            return (1 - F.cosine_similarity(student, teacher, dim=-1, eps=TINY)).mean()


def label_loss(head: Head, student: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with class numbers or yes and no, squared error with numbers; padding counts for nothing."""
    student = student.float()
    if labels.is_floating_point():
        return ((student - labels.reshape(student.shape).float()) ** 2).mean() / head.scale
    if head.kind in ("bce", "mse") and labels.numel() == student.numel():
        target = labels.reshape(student.shape).float()
        if head.kind == "bce":
            return F.binary_cross_entropy(student.clamp(TINY, 1 - 1e-7), target)
        return F.binary_cross_entropy_with_logits(student, target)
    logits = _logits(student, probabilities=head.probabilities)
    if labels.shape == student.shape[:-1] or student.ndim == 2:
        logits = logits.reshape(-1, student.shape[-1])
        return F.cross_entropy(logits, labels.reshape(-1).long().clamp(min=-1), ignore_index=-1)
    return F.cross_entropy(logits, labels.long().clamp(min=-1), ignore_index=-1)


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error over the mean square of the teacher's value."""
    teacher = teacher.float()
    return ((student.float() - teacher) ** 2).mean() / (teacher**2).mean().clamp(min=TINY)


def _logits(x: Tensor, *, probabilities: bool) -> Tensor:
    return torch.log(x.clamp(min=TINY)) if probabilities else x
