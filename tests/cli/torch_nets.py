"""PyTorch modules that the tests export by name, good ones and bad ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Cnn(nn.Module):
    """Convolution with a batch normalization that has statistics, a projection of rows, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.rows = nn.Linear(4, 4)
        self.head = nn.Linear(128, 5)
        self.dropout = nn.Dropout(0.5)
        norm = self.body[1]
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.dropout(self.rows(self.body(image)).flatten(1)))


class Tagger(nn.Module):
    """Words and a mask through an embedding and an LSTM; two named outputs, one of them a tuple."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)

    def forward(self, words: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> dict[str, Any]:
        x = self.words(words) * scale
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        y, (hidden, _) = self.lstm(x)
        return {"tags": y, "summary": hidden[-1], "nothing": None}


class Branch(nn.Module):
    """Takes one of two layers by the values that it is given: a trace keeps only the one that it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Linear(4, 4)
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.after = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return self.after(self.one(y) if x.abs().max() > 2 else self.two(y))


class Tripled(torch.autograd.Function):
    """Computes 2 x; what it tells the exporter is 3 x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Mul", x, g.op("Constant", value_t=torch.tensor(3.0)))


class WrongSymbol(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.twice = Twice()
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.twice(torch.relu(self.first(x))))


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Tripled.apply(x)


class Noisy(nn.Module):
    """Dropout that nobody switches off."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 64)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.5)


class Spectrum(nn.Module):
    """An operation that no exporter knows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).real


def cnn() -> tuple[nn.Module, Tensor]:
    return Cnn(), torch.zeros(1, 3, 8, 8)


def cnn_alone() -> nn.Module:
    return Cnn()


def tagger() -> nn.Module:
    return Tagger()


def branch() -> tuple[nn.Module, Tensor]:
    return Branch(), torch.zeros(2, 4)


def wrong_symbol() -> tuple[nn.Module, Tensor]:
    return WrongSymbol(), torch.zeros(2, 4)


def noisy() -> tuple[nn.Module, Tensor]:
    return Noisy(), torch.zeros(2, 4)


def spectrum() -> tuple[nn.Module, Tensor]:
    return Spectrum(), torch.eye(3)[None]


class Single(nn.Module):
    """One sample without a batch axis, with a table of its own for each place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places = nn.Parameter(torch.randn(7, 3))

    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        return (self.places * x).sum(0) * factor


def single() -> tuple[nn.Module, Tensor, Tensor]:
    return Single(), torch.zeros(7, 3), torch.ones(3)


def failing() -> nn.Module:
    raise FileNotFoundError("no weights at weights.bin")


def no_module() -> int:
    return 3
