"""Scaled dot-product attention and rotary embeddings, as ONNX defines them since opset 23."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.bridge.site import Function, Site, operator


@operator("Attention", since=23)
def attention(site: Site) -> Function:
    """``softmax(Q K' scale + bias) V`` for heads that may share keys and values, with a cache and windows."""
    q_heads, kv_heads = site.int("q_num_heads", 0), site.int("kv_num_heads", 0)
    causal, mode = bool(site.int("is_causal", 0)), site.int("qk_matmul_output_mode", 0)
    softcap, scale = site.float("softcap", 0.0), site.float("scale", 0.0)
    left, right = site.int("left_window_size", -1), site.int("right_window_size", -1)
    precision = site.type("softmax_precision", None)

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        past_k: Tensor | None = None,
        past_v: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        is_flat = q.ndim == 3
        if is_flat:
            q, k, v = _heads(q, q_heads), _heads(k, kv_heads), _heads(v, kv_heads)
        k = k if past_k is None else torch.cat([past_k, k], 2)
        v = v if past_v is None else torch.cat([past_v, v], 2)
        present = k, v
        if q.shape[1] != k.shape[1]:
            each = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)
        root = math.sqrt(scale or 1 / math.sqrt(q.shape[-1]))
        scores = torch.matmul(q * root, (k * root).transpose(-1, -2))
        shown = scores
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
            shown = scores if mode == 1 else shown
        bias = _bias(scores, mask)
        start = _offset(q, past_k, lengths)
        bias = _allow(bias, start, causal=causal, left=left, right=right)
        if lengths is not None:
            inside = torch.arange(k.shape[2], device=q.device) < lengths.reshape(-1, 1, 1, 1)
            bias = torch.where(inside, bias, torch.full((), -math.inf, dtype=bias.dtype, device=bias.device))
        scores = scores + bias
        shown = scores if mode == 2 else shown
        weights = torch.softmax(scores if precision is None else scores.to(precision), -1)
        hidden = torch.isneginf(bias.amax(-1, keepdim=True))
        weights = torch.where(hidden, torch.zeros_like(weights), weights).to(q.dtype)
        shown = weights if mode == 3 else shown
        found = torch.matmul(weights, v)
        if is_flat:
            found = found.transpose(1, 2).flatten(2)
        return found, *present, shown

    return run


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _bias(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The mask as what is added to the scores, padded to all keys."""
    if mask is None:
        return torch.zeros((1, 1, *scores.shape[-2:]), dtype=scores.dtype, device=scores.device)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
    missing = scores.shape[-1] - mask.shape[-1]
    mask = F.pad(mask, (0, missing), value=-math.inf) if missing > 0 else mask
    return mask + torch.zeros((1, 1, *scores.shape[-2:]), dtype=mask.dtype, device=mask.device)


def _offset(q: Tensor, past: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Keys before the first query, (batch or 1, 1, 1, 1)."""
    if past is not None:
        return torch.full((1, 1, 1, 1), past.shape[2], device=q.device)
    if lengths is not None:
        return lengths.reshape(-1, 1, 1, 1) - q.shape[2]
    return torch.zeros((1, 1, 1, 1), dtype=torch.int64, device=q.device)


def _allow(bias: Tensor, start: Tensor, *, causal: bool, left: int, right: int) -> Tensor:
    """The bias with keys behind the query, or outside its window, shut out."""
    if not causal and left < 0 and right < 0:
        return bias
    place = torch.arange(bias.shape[-2], device=bias.device).reshape(1, 1, -1, 1) + start
    key = torch.arange(bias.shape[-1], device=bias.device).reshape(1, 1, 1, -1)
    allowed = key <= place if causal else torch.ones_like(key <= place)
    allowed = allowed & (key >= place - left) if left >= 0 else allowed
    allowed = allowed & (key <= place + right) if right >= 0 else allowed
    return torch.where(allowed, bias, torch.full((), -math.inf, dtype=bias.dtype, device=bias.device))


@operator("RotaryEmbedding", since=23)
def rotary(site: Site) -> Function:
    """Pairs of elements turned by an angle that grows with the place of the token."""
    interleaved, size, heads = site.int("interleaved", 0), site.int("rotary_embedding_dim", 0), site.int("num_heads", 0)

    def run(x: Tensor, cos: Tensor, sin: Tensor, places: Tensor | None = None) -> Tensor:
        is_flat = x.ndim == 3
        data = x.reshape(x.shape[0], x.shape[1], heads, -1) if is_flat else x.transpose(1, 2)
        turned = size or data.shape[-1]
        if places is not None:
            cos, sin = cos[places.long()], sin[places.long()]
        cos, sin = cos[..., : turned // 2].unsqueeze(2), sin[..., : turned // 2].unsqueeze(2)
        part, rest = data[..., :turned], data[..., turned:]
        a, b = (part[..., 0::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
        real, imaginary = cos * a - sin * b, sin * a + cos * b
        both = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
        found = torch.cat([both, rest], -1)
        return found.reshape(x.shape) if is_flat else found.transpose(1, 2)

    return run
