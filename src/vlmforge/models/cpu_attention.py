"""Attention of packed samples, and of pictures, on a CPU: torch's own kernels, the backward one always in float32.

In bfloat16 that kernel is slower than in float32 with every cast counted (3.1 to 2.3 ms for 192 tokens and 9 heads on
two cores), less exact, and compiles for each new length code that it keeps: 4 MB each, for as many lengths as the data
has. Those of packed samples are operations of their own, which torch.compile takes as they are: what they run depends
on where samples end.
"""

# Shapes: T tokens of all samples, L of one, N samples or pictures, H query heads, K key-value heads, D head_dim.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

# Samples go through the backward kernel together if none has less than this part of the longest one's tokens.
SIMILAR = 0.8

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_on_cpu(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, scaling: float, window: int | None
) -> Tensor:
    """Causal attention of each sample to itself; keeps nothing in float32 but a number for each query and head.

    Args:
        query: `[1, H, T, D]`.
        key: `[1, K, T, D]`.
        value: `[1, K, T, D]`.
        borders: `[N + 1]`, where samples begin and end.
        scaling: factor of the scores.
        window: how many tokens back a token sees, itself counted; None: all.

    Returns:
        `[1, T, H, D]`.
    """
    return _attend(query, key, value, borders, scaling, window)[0]


@dataclass(frozen=True)
class _Together:
    """Samples of similar lengths as rows of one tensor, each filled up with its own last token.

    Causal attention of what counts sees none of these copies; they are made one gather a tensor, where a copy for each
    sample would cost more than the products.

    Attributes:
        shape: samples and tokens of the longest one.
        taken: `[samples * longest]`, which token of the row stands at each place.
        places: `[tokens]`, where the samples' own tokens stand among them.
        tokens: `[tokens]`, which those are.
        copies: where the others stand.
    """

    shape: tuple[int, int]
    taken: Tensor
    places: Tensor
    tokens: Tensor
    copies: Tensor

    def gather(self, heads: Tensor) -> Tensor:
        """`[samples, H, longest, D]` of `[1, H, T, D]`."""
        return heads[0].transpose(0, 1).index_select(0, self.taken).unflatten(0, self.shape).transpose(1, 2)

    def scatter(self, target: Tensor, heads: Tensor) -> None:
        """Write `[samples, H, longest, D]` into `[1, H, T, D]`, without the copies."""
        own = heads.transpose(1, 2).flatten(0, 1).index_select(0, self.places)
        target[0].transpose(0, 1).index_copy_(0, self.tokens, own)


def _put_together(borders: Tensor) -> list[_Together]:
    """All samples, those of similar lengths together, the longest of each group first.

    A call for one sample gives 9 heads to 2 cores, and costs as much before its first product as 60 tokens.
    """
    samples = sorted(pairwise(borders.tolist()), key=lambda sample: sample[0] - sample[1])
    groups: list[list[tuple[int, int]]] = []
    for start, end in samples:
        first = groups[-1][0] if groups else (0, 0)
        if groups and end - start >= SIMILAR * (first[1] - first[0]):
            groups[-1].append((start, end))
        elif end > start:
            groups.append([(start, end)])
    return [_index(group) for group in groups]


def _index(samples: Sequence[tuple[int, int]]) -> _Together:
    """Of samples by their borders, the longest first."""
    # Even, for two halves.
    longest = samples[0][1] - samples[0][0]
    longest += longest % 2
    starts, ends = torch.tensor(samples).unbind(1)
    place = torch.arange(longest)
    wanted = starts[:, None] + place
    is_own = (wanted < ends[:, None]).flatten()
    taken = wanted.minimum(ends[:, None] - 1).flatten()
    places = is_own.nonzero()[:, 0]
    return _Together((len(samples), longest), taken, places, taken[places], (~is_own).nonzero()[:, 0])


@torch.library.custom_op("vlmforge::cpu_attention", mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, scaling: float, window: int | None
) -> tuple[Tensor, Tensor]:
    """What is asked for, and the scores' log sums `[1, H, T]`."""
    out, log_sums = _empty_results(query)
    for q, k, v, target, sums in _samples(borders, query, key, value, out.transpose(1, 2), log_sums):
        result, log_sum = _forward(q, k, v, 0.0, **_mask(q, window), scale=scaling)
        target.copy_(result)
        sums.copy_(log_sum)
    return out, log_sums


@_attend.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, scaling: float, window: int | None
) -> tuple[Tensor, Tensor]:
    return _empty_results(query)


def _empty_results(query: Tensor) -> tuple[Tensor, Tensor]:
    _, num_heads, num_tokens, head_dim = query.shape
    out = query.new_empty((1, num_tokens, num_heads, head_dim))
    # As the kernel lays them out, heads innermost.
    return out, query.new_empty((1, num_tokens, num_heads), dtype=torch.float32).transpose(1, 2)


@torch.library.custom_op("vlmforge::cpu_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sums: Tensor,
    borders: Tensor,
    scaling: float,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, in their type and their layout."""
    grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
    read = (query, key, value, out.transpose(1, 2))
    for samples in _put_together(borders):
        inputs = [samples.gather(tensor).float() for tensor in read]
        # Nothing comes back through the copies.
        own = samples.gather(grad.transpose(1, 2)).float()
        own.transpose(1, 2).view(-1, *own.shape[1::2]).index_fill_(0, samples.copies, 0.0)
        sums = samples.gather(log_sums.unsqueeze(-1))[..., 0]
        results = _undo([own, *inputs, sums], scaling, window)
        for target, result in zip(grads, results, strict=True):
            samples.scatter(target, result.to(target.dtype))
    return grads[0], grads[1], grads[2]


def _undo(read: Sequence[Tensor], scaling: float, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, of the output's gradient, these three, the output and its log sums.

    All are `[N, H, L, ...]`, with an even L, and lie as `[N, L, H, ...]`. The kernel multiplies what a token does not
    see too: in two halves, each with itself and the second with the first, it is three quarters of that.
    """
    query = read[1]
    if window is not None and query.shape[2] > window:
        return _backward(*read, 0.0, **_mask(query, window), scale=scaling)
    halves = [_halve(tensor) for tensor in read]
    own = _backward(*(half.flatten(0, 1) for half in halves), 0.0, is_causal=True, scale=scaling)
    grads, queries, keys, values, outs, log_sums = halves
    earlier = _backward(
        grads[:, 1], queries[:, 1], keys[:, 0], values[:, 0], outs[:, 1], log_sums[:, 1], 0.0, False, scale=scaling
    )
    for target, more, half in zip(own, earlier, (1, 0, 0), strict=True):
        target.unflatten(0, (-1, 2))[:, half].add_(more)
    query_grad, key_grad, value_grad = (
        half.transpose(1, 2).unflatten(0, (-1, 2)).flatten(1, 2).transpose(1, 2) for half in own
    )
    return query_grad, key_grad, value_grad


def _halve(tensor: Tensor) -> Tensor:
    """`[N, 2, H, L / 2, ...]` of `[N, H, L, ...]`."""
    return tensor.transpose(1, 2).unflatten(1, (2, -1)).transpose(2, 3)


@_attend_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, scaling: float = 0.0, window: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, borders, *ctx.settings = inputs
    ctx.save_for_backward(query, key, value, *output, borders)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_attend_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


_attend.register_autograd(_differentiate, setup_context=_keep)


def _samples(borders: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each sample's part of each tensor, whose third dim is tokens."""
    lengths = torch.diff(borders).tolist()
    return zip(*(tensor.split(lengths, dim=2) for tensor in tensors), strict=True)


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


class AttendWhole(torch.autograd.Function):
    """Attention of every token of a picture, or tile, to every other."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Of the three, `[N, H, L, D]` each."""
        out, log_sums = _forward(query, key, value, 0.0, is_causal=False, scale=scaling)
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """In the type of the query."""
        *heads, log_sums = ctx.saved_tensors
        wide = (tensor.float() for tensor in (grad_outputs[0], *heads))
        grads = _backward(*wide, log_sums, 0.0, is_causal=False, scale=ctx.scaling)
        return *(grad.to(heads[0].dtype) for grad in grads), None
