"""Attention of packed samples on a CPU: torch's own kernels, the backward one always in float32.

In bfloat16 that kernel is slower than in float32 with every cast counted (3.1 to 2.3 ms for 192 tokens and 9 heads on
two cores), less exact, and compiles for each new length code that it keeps: 4 MB each, for as many lengths as the data
has.
"""

# Shapes: T tokens of all samples, L of one, H query heads, K key-value heads, D head_dim.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class CpuAttention(torch.autograd.Function):
    """Causal attention of each sample to itself; keeps nothing in float32 but a number for each query and head."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scaling: float, window: int | None
    ) -> Tensor:
        """`[1, T, H, D]` from `[1, H, T, D]`, `[1, K, T, D]` and `[1, K, T, D]`; a window counts the token itself."""
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        parts = (tensor.split(lengths, dim=2) for tensor in (query, key, value, out.transpose(1, 2)))
        sums = []
        for q, k, v, target in zip(*parts, strict=True):
            result, log_sum = _forward(q, k, v, 0.0, **_mask(q, window), scale=scaling)
            target.copy_(result)
            sums.append(log_sum)
        ctx.save_for_backward(query, key, value, out, *sums)
        ctx.settings = lengths, scaling, window
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value, in their type and their layout."""
        query, key, value, out, *sums = ctx.saved_tensors
        lengths, scaling, window = ctx.settings
        grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
        read = (grad_outputs[0].transpose(1, 2), query, key, value, out.transpose(1, 2))
        parts = (tensor.split(lengths, dim=2) for tensor in (*read, *grads))
        for (*inputs, dq, dk, dv), log_sum in zip(zip(*parts, strict=True), sums, strict=True):
            mask = _mask(dq, window)
            results = _backward(*(part.float() for part in inputs), log_sum, 0.0, **mask, scale=scaling)
            for target, result in zip((dq, dk, dv), results, strict=True):
                target.copy_(result)
        return *grads, None, None, None


def visible(length: int, window: int | None, device: torch.device) -> Tensor:
    """`[length, length]` bool: which keys each query of one sample sees."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions[None, :]
    causal = distance >= 0
    return causal if window is None else causal & (distance < window)


def _mask(query: Tensor, window: int | None) -> dict[str, Any]:
    """What each query of one sample sees, as the kernels ask for it."""
    length = query.shape[2]
    if window is None or length <= window:
        return {"is_causal": True}
    hidden = ~visible(length, window, query.device)
    return {"is_causal": False, "attn_mask": torch.zeros(length, length).masked_fill_(hidden, float("-inf"))}
