"""Attention within each sample of a row of samples laid end to end.

A dense mask over a packed row costs the square of the row; attention sample by sample costs the sum of the squares
and cannot leak. The function is registered with transformers under `VARLEN`, which then builds no mask at all: the
borders come in as `cu_seq_lens_q`, which every transformers decoder hands through to its attention.
"""

# Shapes: T tokens of all samples, H query heads, K key-value heads, D head_dim, N samples.

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

VARLEN = "vlmforge_varlen"


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each sample to itself.

    Args:
        module: the attention layer, for its number of key-value groups.
        query: `[1, H, T, D]`.
        key: `[1, K, T, D]`.
        value: `[1, K, T, D]`.
        attention_mask: must be None; borders are given instead.
        scaling: factor of the scores; None: `D ** -0.5`.
        dropout: must be 0.
        sliding_window: how many tokens back a token sees, itself included; None: all.
        kwargs: must hold `cu_seq_lens_q`, `[N + 1]` int32, and `max_length_q`, the longest sample.

    Returns:
        `[1, T, H, D]` and None in the place of attention weights.
    """
    assert attention_mask is None, "borders say what a token sees, not a mask"
    assert dropout == 0.0, "attention dropout is not supported by varlen attention"
    borders: Tensor = kwargs["cu_seq_lens_q"]
    # The kernel knows half precision only; in fp32 each sample goes through the general one.
    if query.device.type == "cuda" and query.dtype != torch.float32:
        return _flash(query, key, value, borders, kwargs["max_length_q"], scaling, sliding_window), None
    outputs = [
        _attend_one(q, k, v, scaling, sliding_window)
        for q, k, v in zip(*(_split(tensor, borders) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _split(tensor: Tensor, borders: Tensor) -> tuple[Tensor, ...]:
    return tensor.split(torch.diff(borders).tolist(), dim=2)


def _attend_one(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    length = query.shape[2]
    if window is None or length <= window:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    positions = torch.arange(length, device=query.device)
    distance = positions[:, None] - positions[None, :]
    mask = (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    # Imported here: the module loads CUDA kernels that a CPU build does not have.
    from torch.nn.attention.varlen import varlen_attn

    flat_query, flat_key, flat_value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    # The kernel counts the tokens before a token, the config the token itself too.
    left = -1 if window is None else window - 1
    out = varlen_attn(
        flat_query,
        flat_key,
        flat_value,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(left, 0),
        enable_gqa=True,
    )
    assert isinstance(out, Tensor)
    return out.unsqueeze(0)


AttentionInterface.register(VARLEN, varlen_attention)
