"""Small networks of many topologies, with random statistics and biases, for exports out of PyTorch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Biases, scales and running statistics that would show in the outputs if they were mixed up."""
    torch.manual_seed(seed)
    for child in module.modules():
        for name, tensor in [*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)]:
            if name == "running_var" or (name == "weight" and tensor.ndim == 1):
                tensor.data.uniform_(0.5, 1.5)
            elif name == "running_mean" or "bias" in name:
                tensor.data.normal_(0, 0.3)
    return module.eval()


def cbr(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), act())


def head(c: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 5))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, short: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.short = inner, short or nn.Identity()

    def forward(self, x):
        return F.relu(self.inner(x) + self.short(x))


def resnet_basic() -> nn.Module:
    def block(i, o, s):
        inner = nn.Sequential(cbr(i, o, 3, s), nn.Conv2d(o, o, 3, 1, 1), nn.BatchNorm2d(o))
        return Residual(inner, nn.Sequential(nn.Conv2d(i, o, 1, s), nn.BatchNorm2d(o)) if s > 1 else None)

    return nn.Sequential(cbr(3, 8), block(8, 8, 1), block(8, 12, 2), head(12))


def resnet_bottleneck() -> nn.Module:
    def block(i, m):
        return Residual(nn.Sequential(cbr(i, m, 1), cbr(m, m + 1), nn.Conv2d(m + 1, i, 1), nn.BatchNorm2d(i)))

    return nn.Sequential(cbr(3, 16, 3, 2), block(16, 6), block(16, 6), head(16))


class SE(nn.Module):
    def __init__(self, c: int, m: int, gate: type[nn.Module]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, m, 1), nn.ReLU(), nn.Conv2d(m, c, 1), gate())

    def forward(self, x):
        return x * self.net(x)


class Inverted(nn.Module):
    def __init__(self, c: int, m: int, act: type[nn.Module], se: nn.Module | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(
            cbr(c, m, 1, act=act),
            cbr(m, m, 3, g=m, act=act),
            se or nn.Identity(),
            nn.Conv2d(m, c, 1, bias=False),
            nn.BatchNorm2d(c),
        )

    def forward(self, x):
        return x + self.net(x)


def mobilenet_v2() -> nn.Module:
    return nn.Sequential(cbr(3, 8, 3, 2), Inverted(8, 20, nn.ReLU6), Inverted(8, 24, nn.ReLU6), head(8))


def mobilenet_v3() -> nn.Module:
    return nn.Sequential(
        cbr(3, 8, 3, 2, act=nn.Hardswish), Inverted(8, 20, nn.Hardswish, SE(20, 6, nn.Hardsigmoid)), head(8)
    )


def efficientnet() -> nn.Module:
    return nn.Sequential(cbr(3, 8, 3, 2, act=nn.SiLU), Inverted(8, 20, nn.SiLU, SE(20, 6, nn.Sigmoid)), head(8))


class Dense(nn.Module):
    def __init__(self, i: int, g: int, n: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(i + g * k), nn.ReLU(), nn.Conv2d(i + g * k, g, 3, 1, 1)) for k in range(n)
        )

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def densenet() -> nn.Module:
    return nn.Sequential(cbr(3, 10, 3, 2), Dense(10, 6, 3), nn.BatchNorm2d(28), nn.ReLU(), head(28))


class Ghost(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.a, self.b = cbr(i, o, 1), cbr(o, o, 3, g=o)

    def forward(self, x):
        y = self.a(x)
        return torch.cat([y, self.b(y)], 1)


def ghostnet() -> nn.Module:
    return nn.Sequential(cbr(3, 8, 3, 2), Ghost(8, 10), Ghost(20, 7), head(14))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = cbr(3, 8, 3, 2), cbr(8, 6, 1)
        self.b, self.c = nn.Sequential(cbr(8, 5, 1), cbr(5, 7)), cbr(8, 9, 1)
        self.head = head(22)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([self.a(x), self.b(x), self.c(F.max_pool2d(x, 3, 1, 1))], 1))


class UNet(nn.Module):
    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = cbr(3, 8), cbr(8, 12), cbr(20, 10)
        up = nn.Upsample(scale_factor=2, mode="nearest")
        self.up: nn.Module = nn.ConvTranspose2d(12, 12, 2, 2) if transposed else up
        self.out = nn.Conv2d(10, 2, 1)

    def forward(self, x):
        a = self.a(x)
        return self.out(self.c(torch.cat([a, self.up(self.b(F.max_pool2d(a, 2)))], 1)))


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dw, self.norm = nn.Conv2d(3, 12, 4, 4), nn.Conv2d(12, 12, 7, 1, 3, groups=12), nn.LayerNorm(12)
        self.up, self.down, self.gamma = nn.Linear(12, 26), nn.Linear(26, 12), nn.Parameter(torch.rand(12) + 0.5)
        self.head = head(12)

    def forward(self, x):
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(self.dw(x).permute(0, 2, 3, 1))))) * self.gamma
        return self.head(x + y.permute(0, 3, 1, 2))


class CRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(cbr(3, 8, 3, 2), nn.AdaptiveAvgPool2d((1, 16)))
        self.rnn, self.out = nn.LSTM(8, 10, bidirectional=True, batch_first=True), nn.Linear(20, 5)

    def forward(self, x):
        return self.out(self.rnn(self.conv(x).squeeze(2).permute(0, 2, 1))[0])


class Layer(nn.Module):
    """Pre-norm transformer layer: 4 heads (``kv`` of keys and values) of 6, 22 channels in the middle."""

    def __init__(self, d: int = 24, kv: int = 4, rope: bool = False) -> None:
        super().__init__()
        self.kv, self.rope = kv, rope
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v = nn.Linear(d, 24), nn.Linear(d, 6 * kv), nn.Linear(d, 6 * kv)
        self.o, self.up, self.down = nn.Linear(24, d), nn.Linear(d, 22), nn.Linear(22, d)

    def turned(self, x):
        angle = torch.arange(x.shape[2])[:, None] * torch.tensor([1.0, 0.1, 0.01]).repeat(2)
        return x * angle.cos() + torch.cat([-x[..., 3:], x[..., :3]], -1) * angle.sin()

    def forward(self, x, mask=None):
        b, n, _ = x.shape
        y = self.n1(x)
        q = self.q(y).view(b, n, 4, 6).transpose(1, 2)
        k, v = (m(y).view(b, n, self.kv, 6).transpose(1, 2) for m in (self.k, self.v))
        if self.rope:
            q, k = self.turned(q), self.turned(k)
        if self.kv < 4:
            k, v = (t[:, :, None].expand(b, self.kv, 4 // self.kv, n, 6).reshape(b, 4, n, 6) for t in (k, v))
        scores = q @ k.transpose(2, 3) / 6**0.5
        scores = scores if mask is None else scores + mask
        x = x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, 24))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.randn(1, 17, 24))
        self.token, self.a, self.b, self.out = nn.Parameter(torch.randn(1, 1, 24)), Layer(), Layer(), nn.Linear(24, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.out(self.b(self.a(x))[:, 0])


class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.a, self.b, self.out = nn.Embedding(50, 24), Layer(), Layer(), nn.Linear(24, 5)

    def forward(self, ids, mask):
        bias = (1.0 - mask[:, None, None, :].float()) * -10000.0
        return self.out(self.b(self.a(self.words(ids), bias), bias)[:, 0])


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.a, self.out = nn.Embedding(50, 24), Layer(kv=2, rope=True), nn.Linear(24, 50)

    def forward(self, ids):
        n = ids.shape[1]
        mask = torch.triu(torch.full((n, n), -10000.0), 1)
        return self.out(self.a(self.words(ids), mask))


class Swin(nn.Module):
    """Attention within windows of 2x2."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.a, self.out = nn.Conv2d(3, 24, 8, 8), Layer(), nn.Linear(24, 5)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        x = x.reshape(-1, 2, 2, 2, 2, 24).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 24)
        x = self.a(x).reshape(-1, 2, 2, 2, 2, 24).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 24)
        return self.out(x.mean(1))
