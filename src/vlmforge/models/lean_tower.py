"""Layers of Qwen-VL's towers with fewer passes over memory: rotary positions, attention within pictures, patches.

transformers turns queries and keys in about ten operations, in float32, and attends picture by picture. Here both are
turned in one operation that keeps nothing but the angles, and pictures of one size are attended to together.
"""

# Shapes: T tokens of all pictures, H heads, D head_dim.

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmforge.models.attention import WHOLE, whole_attention


class _Turn(torch.autograd.Function):
    """Rotary positions, whose gradient is turned back by the same angles."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`[T, 2, H, D]` of the same and `[T, 1, 1, D / 2]` twice, fp32."""
        ctx.save_for_backward(cos, sin)
        return _turn(heads, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        """Of the heads alone: angles are not trained."""
        cos, sin = ctx.saved_tensors
        return _turn(grad_outputs[0], cos, -sin), None, None


def _turn(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair of an entry of the first half and its like of the second, turned in fp32 and then rounded."""
    turned = torch.empty_like(heads, memory_format=torch.contiguous_format)
    first, second = heads.chunk(2, dim=-1)
    for part, one, other, sign in zip(turned.chunk(2, dim=-1), (first, second), (second, first), (-1, 1), strict=True):
        part.copy_((one * cos).add_(other * sin, alpha=sign))
    return turned


class PictureAttention(nn.Module):
    """Attention of Qwen2.5-VL's and Qwen3-VL's towers, each token to those of its picture or window."""

    qkv: nn.Module
    proj: nn.Module
    config: Any
    num_heads: int
    scaling: float

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """`[T, width]` of the same.

        Args:
            hidden_states: `[T, width]`.
            cu_seqlens: `[N + 1]`, where pictures or windows begin and end.
            position_embeddings: cosines and sines, `[T, D]` each, whose halves are alike.
            kwargs: of transformers' own.
        """
        if self.config._attn_implementation != WHOLE:
            return super().forward(hidden_states, cu_seqlens, position_embeddings=position_embeddings, **kwargs)
        assert position_embeddings is not None, "a tower turns its queries and keys"
        mixed = self.qkv(hidden_states).view(len(hidden_states), 3, self.num_heads, -1)
        turning, values = mixed.split([2, 1], dim=1)
        cos, sin = (angles.float().chunk(2, dim=-1)[0][:, None, None] for angles in position_embeddings)
        queries, keys = _Turn.apply(turning, cos, sin).unbind(1)
        return self.proj(self._attend(queries, keys, values.squeeze(1), torch.diff(cu_seqlens).tolist()))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int]) -> Tensor:
        """`[T, H D]` of three times `[T, H, D]`; neighbours of one length go together."""
        runs = [(length, len(list(same))) for length, same in groupby(lengths)]
        parts = zip(
            *(heads.split([length * count for length, count in runs]) for heads in (queries, keys, values)), strict=True
        )
        outputs: list[Tensor] = []
        for (length, count), part in zip(runs, parts, strict=True):
            query, key, value = (heads.unflatten(0, (count, length)).transpose(1, 2) for heads in part)
            output, _ = whole_attention(self, query, key, value, None, scaling=self.scaling)
            outputs.append(output.flatten(2).flatten(0, 1))
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


class Patches(nn.Module):
    """Tokens of patches: a convolution whose kernel is as large as its input is one product."""

    proj: nn.Module

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[T, width]` of `[T, values]`."""
        if type(self.proj) is not nn.Conv3d:
            return super().forward(hidden_states)
        weight = self.proj.weight
        return F.linear(hidden_states.to(weight.dtype), weight.flatten(1), self.proj.bias)
