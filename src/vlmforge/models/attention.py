"""Attention within each sample of a row of samples laid end to end.

A dense mask over a packed row costs the square of the row; attention sample by sample costs the sum of the squares
and cannot leak. The function is registered with transformers under `VARLEN`, which then builds no mask at all: the
borders come in as `cu_seq_lens_q`, which every transformers decoder hands through to its attention. So does
`sequence_split`, where several ranks share a sequence.
"""

# Shapes: T tokens of all samples, H query heads, K key-value heads, D head_dim, N samples.

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from vlmforge.models.cpu_attention import AttendWhole, attend_on_cpu, visible
from vlmforge.parallel.context import SequenceSplit

VARLEN = "vlmforge_varlen"
WHOLE = "vlmforge_whole"

# What a compiled layer calls as it is; torch's own type says that such a function takes nothing.
_uncompiled: Any = torch.compiler.disable


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each sample to itself.

    Args:
        module: the attention layer, which says whether it sees chunks only and how it scales its queries.
        query: `[1, H, T, D]`.
        key: `[1, K, T, D]`.
        value: `[1, K, T, D]`.
        attention_mask: must be None; borders are given instead.
        scaling: factor of the scores; None: `D ** -0.5`.
        dropout: must be 0.
        sliding_window: how many tokens back a token sees, itself included; None: all.
        softcap: scores become `softcap * tanh(scores / softcap)`; None: they stay.
        kwargs: must hold `cu_seq_lens_q`, `[N + 1]` int32, and `max_length_q`, the longest sample. With
            `sequence_split`, query, key and value are this rank's slice of the T tokens, and borders all of them's.

    Returns:
        `[1, T, H, D]`, or this rank's slice of it, and None in the place of attention weights.
    """
    assert attention_mask is None, "borders say what a token sees, not a mask"
    assert dropout == 0.0, "attention dropout is not supported by varlen attention"
    assert getattr(module, "is_causal", True), "every token sees those before it only"
    borders, longest = kwargs["cu_seq_lens_q"], kwargs["max_length_q"]
    split: SequenceSplit | None = kwargs.get("sequence_split")
    if split is None and softcap is None and not _depends_on_samples(module):
        return _attend_fused(query, key, value, borders, longest, scaling, sliding_window), None
    attend = partial(
        _attend,
        module,
        borders=borders,
        longest=longest,
        slice_length=query.shape[2],
        scaling=scaling,
        window=sliding_window,
        softcap=softcap,
    )
    return _attend_uncompiled(attend, split, query, key, value), None


def _depends_on_samples(module: Any) -> bool:
    """Whether a layer cuts samples, or scales what it sees by its place in them; of Llama 4."""
    kinds = getattr(getattr(module, "config", None), "layer_types", None) or ()
    return "chunked_attention" in kinds or getattr(module, "attn_temperature_tuning", False)


# A compiled layer calls this as it is: it asks other ranks, or does something else for every number of samples.
@_uncompiled
def _attend_uncompiled(
    attend: Callable[..., Tensor], split: SequenceSplit | None, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    if split is None:
        return attend(query, key, value)
    shared = (query, split.share_heads(key), split.share_heads(value))
    return split.gather_heads(attend(*(split.gather_tokens(heads) for heads in shared)))


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    borders: Tensor,
    longest: int,
    slice_length: int,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """`[1, T, H, D]`: attention over all T tokens, whose queries were made in slices of `slice_length`."""
    query = _restart_temperature(module, query, borders, slice_length)
    if (chunk := _chunk_size(module)) is not None:
        # A chunk is then a sample of its own.
        borders, longest = cut_samples(borders, chunk), min(longest, chunk)
    if softcap is not None:
        return _attend_capped(query, key, value, borders, scaling, window, softcap)
    return _attend_fused(query, key, value, borders, longest, scaling, window)


def _attend_fused(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    """`[1, T, H, D]`, by the device's own kernel."""
    # The kernel knows half precision only; in fp32 each sample goes through the general one.
    if query.device.type == "cuda" and query.dtype != torch.float32:
        return _flash(query, key, value, borders, longest, scaling, window)
    if query.device.type == "cpu":
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        return attend_on_cpu(query, key, value, borders, factor, window)
    return _attend_each(query, key, value, borders, scaling, window)


@_uncompiled
def _attend_each(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    outputs = [
        _attend_one(q, k, v, scaling, window)
        for q, k, v in zip(*(_split(tensor, borders) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _split(tensor: Tensor, borders: Tensor) -> tuple[Tensor, ...]:
    return tensor.split(torch.diff(borders).tolist(), dim=2)


def _attend_one(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    length = query.shape[2]
    if window is None or length <= window:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    mask = visible(length, window, query.device)
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


def _attend_capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float,
) -> Tensor:
    """Attention with capped scores, written out: no fused kernel of torch has the cap."""
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    outputs = []
    for q, k, v in zip(*(_split(tensor, borders) for tensor in (query, key, value)), strict=True):
        scores = q @ k.repeat_interleave(groups, dim=1).transpose(2, 3) * factor
        scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~visible(q.shape[2], window, q.device), float("-inf"))
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        outputs.append(weights @ v.repeat_interleave(groups, dim=1))
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _chunk_size(module: nn.Module) -> int | None:
    """How long the chunks are that a layer sees alone; None: it sees more than a chunk.

    transformers says it in the mask only, so it is read where the mask's maker reads it.
    """
    config: Any = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    is_chunked = kinds is not None and kinds[module.layer_idx] == "chunked_attention"
    return config.attention_chunk_size if is_chunked else None


@lru_cache(maxsize=2)
def cut_samples(borders: Tensor, size: int) -> Tensor:
    """`cu_seq_lens` of samples cut into pieces of `size` tokens, each sample's last as long as what is left.

    All layers of a micro-batch ask with the same tensor, or the two of its halves, and only the first has to wait for a
    GPU to tell its values.
    """
    pieces = [
        torch.arange(start, stop, size, dtype=borders.dtype)
        for start, stop in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)
    ]
    return torch.cat([*pieces, borders[-1:].cpu()]).to(borders.device)


def _restart_temperature(module: nn.Module, query: Tensor, borders: Tensor, slice_length: int) -> Tensor:
    """Queries scaled by their position in the sample, where Llama 4 scaled them by their position in the slice.

    Rows shorter than `floor_scale` are not scaled at all, and come back as they are.
    """
    layer: Any = module
    num_tokens = query.shape[2]
    is_scaled = getattr(layer, "attn_temperature_tuning", False) and not layer.use_rope
    if not is_scaled or num_tokens < layer.floor_scale:
        return query

    def temperature(positions: Tensor) -> Tensor:
        return torch.log1p(torch.floor((positions + 1.0) / layer.floor_scale)) * layer.attn_scale + 1.0

    in_row = torch.arange(num_tokens, device=query.device)
    starts = torch.repeat_interleave(borders[:-1], torch.diff(borders))
    factor = temperature((in_row - starts).float()) / temperature((in_row % slice_length).float())
    return (query * factor[:, None]).to(query.dtype)


def whole_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of every token to every other: a tower's, which is given one picture, tile or window at a time.

    Args:
        module: the attention layer.
        query: `[B, H, T, D]`.
        key: `[B, H, T, D]`.
        value: `[B, H, T, D]`.
        attention_mask: must be None.
        scaling: factor of the scores; None: `D ** -0.5`.
        dropout: of the weights.
        kwargs: not used.

    Returns:
        `[B, T, H, D]` and None in the place of attention weights.
    """
    assert attention_mask is None, "a picture is seen whole"
    if query.device.type == "cpu" and dropout == 0.0:
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        out: Tensor = AttendWhole.apply(query, key, value, factor)
    else:
        out = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(VARLEN, varlen_attention)
AttentionInterface.register(WHOLE, whole_attention)
