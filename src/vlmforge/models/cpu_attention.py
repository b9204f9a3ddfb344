"""Attention of packed samples, and of pictures, on a CPU.

The forward kernel is torch's own. Its backward one is slower in bfloat16 than in float32 with every cast counted (3.1
to 2.3 ms for 192 tokens and 9 heads on two cores), and compiles for each new length code that it keeps: 4 MB each, for
as many lengths as the data has. So only float32 takes it, and bfloat16 goes by products of blocks, in two thirds of the
float32 kernel's time. Attention of packed samples is two operations of its own, which torch.compile takes as they are:
what they run depends on where samples end.
"""

# Shapes: T tokens of all samples, L of one, N samples or pictures, H query heads, K key-value heads, G query heads to
# each of them, D head_dim; P tokens of all samples, each filled up.

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Queries and keys of a block. oneDNN makes a kernel of about 0.7 MB for every size of a product and keeps it, so
# samples are filled up to few sizes.
ROWS, KEYS, GRAIN = 128, 512, 32
# oneDNN shares out products of a batch, and so few as one sample's key-value heads badly: samples that have not less
# than this part of the longest one's tokens go together, until they are as many.
BATCH, SIMILAR = 8, 0.8

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
    if query.dtype == torch.bfloat16:
        return _undo_blocks(grad, query, key, value, out, log_sums, borders, scaling, window)
    grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
    read = (grad.transpose(1, 2), query, key, value, out.transpose(1, 2), log_sums)
    for g, q, k, v, o, sums, *targets in _samples(borders, *read, *grads):
        wide = (tensor.float() for tensor in (g, q, k, v, o))
        results = _backward(*wide, sums, 0.0, **_mask(q, window), scale=scaling)
        for target, result in zip(targets, results, strict=True):
            target.copy_(result)
    return grads[0], grads[1], grads[2]


def _undo_blocks(
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
    """As `_attend_backward`, all of it in bfloat16, by products of blocks of queries and keys; sums in float32.

    A score rounded to bfloat16 is wrong by up to 1/256 of itself, and the weight by as much as the score is: so the
    product subtracts first, and rounds what is small where the weight counts. What it subtracts is a bfloat16, too;
    the exact rest of it is a factor of the output's gradient.
    """
    num_groups = key.shape[1]
    filled = _fill_up(tuple(borders.tolist()), num_groups)
    rows = (
        heads[0].transpose(0, 1).unflatten(1, (num_groups, -1)).flatten(0, 1)  # [T * K, G, D]
        for heads in (query, key, value, grad.transpose(1, 2), out.transpose(1, 2), log_sums.unsqueeze(-1))
    )
    read = [filled.gather(tensor) for tensor in _prepare(*rows, half_logs=filled.half_logs, scaling=scaling)]
    # Nothing comes back through what is filled up.
    read[3].index_fill_(0, filled.copies, 0.0)
    written = [torch.empty_like(read[0]), torch.empty_like(read[1]), torch.empty_like(read[1])]
    for samples in zip(*(filled.split(tensor) for tensor in (*read, *written)), strict=True):
        _undo_samples(*samples, scaling=scaling, window=window)
    results = [torch.empty_like(tensor) for tensor in (query, key, value)]
    for result, tensor in zip(results, written, strict=True):
        by_token = result[0].transpose(0, 1)
        by_token.copy_(tensor.index_select(0, filled.places).view(by_token.shape))
    return results[0], results[1], results[2]


def _prepare(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    grads: Tensor,
    outs: Tensor,
    sums: Tensor,
    half_logs: Tensor | float,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `_undo_samples` reads, `[..., D]` each, of the same and the scores' log sums, `[..., 1]`.

    Equal weights of n tokens are a score of -log(n) each, a single one is 0: half of it is far from neither.
    """
    shift = (sums - half_logs).to(queries.dtype)
    grads = grads.float().mul_((shift.float() - sums).exp_().mul_(scaling)).to(queries.dtype)
    delta = (grads.float() * outs.float()).sum(-1, keepdim=True).neg_()
    high = delta.to(queries.dtype)
    grads = torch.cat([grads, high, (delta - high.float()).to(queries.dtype)], -1)
    return queries, keys, F.pad(values, (0, 2), value=1.0), grads, -shift


def _undo_samples(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    shift: Tensor,
    query_grad: Tensor,
    key_grad: Tensor,
    value_grad: Tensor,
    scaling: float,
    window: int | None = None,
    is_causal: bool = True,
) -> None:
    """Write the three gradients of samples of one L, their heads beside each other.

    Args:
        query: `[K, L, G, D]`.
        key: `[K, L, 1, D]`.
        value: `[K, L, 1, D + 2]`, two ones behind each.
        grad: `[K, L, G, D + 2]`, of the output, times `scaling` and what `shift` leaves; behind it the two parts of
            what is added to the gradients of weights.
        shift: `[K, L, G, 1]`, what is added to scores.
        query_grad: as query.
        key_grad: as key.
        value_grad: as key.
        scaling: factor of the scores.
        window: how many tokens back a token sees, itself counted; None: all.
        is_causal: whether a token sees none that follow.
    """
    num_tokens = query.shape[1]
    key_sum, value_sum = (torch.zeros(key.squeeze(2).shape) for _ in range(2))
    for top in range(0, num_tokens, ROWS):
        rows = slice(top, min(top + ROWS, num_tokens))
        # [K, rows * G, ...]
        q, g, s = (tensor[:, rows].flatten(1, 2) for tensor in (query, grad, shift))
        own = g[..., :-2].contiguous()
        parts = []
        last = rows.stop if is_causal else num_tokens
        for left in range(_first_key(top, window), last, KEYS):
            columns = slice(left, min(left + KEYS, last))
            k, v = (tensor[:, columns].flatten(1, 2) for tensor in (key, value))
            if is_causal:
                bias = _hide(rows.stop - top, columns.stop - left, top - left, window)
                weights = (s.unflatten(1, (-1, query.shape[2])) + bias).flatten(1, 2)
                weights.baddbmm_(q, k.mT, alpha=scaling).exp_()
            else:
                weights = torch.baddbmm(s, q, k.mT, alpha=scaling).exp_()
            score_grad = torch.bmm(g, v.mT).mul_(weights)
            value_sum[:, columns] += torch.bmm(weights.mT, own).float()
            key_sum[:, columns] += torch.bmm(score_grad.mT, q).float()
            parts.append(torch.bmm(score_grad, k))
        total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0, dtype=torch.float32)
        query_grad[:, rows] = total.view(query_grad[:, rows].shape)
    key_grad.squeeze(2).copy_(key_sum)
    # The output's gradient was scaled for the scores.
    value_grad.squeeze(2).copy_(value_sum.div_(scaling))


def _first_key(row: int, window: int | None) -> int:
    """Where the blocks of keys begin for the queries from `row` on."""
    return 0 if window is None else max(0, row - window + 1) // KEYS * KEYS


@lru_cache(maxsize=64)
def _hide(num_rows: int, num_keys: int, distance: int, window: int | None) -> Tensor:
    """`[rows, 1, keys]` of 0 and, where a query does not see a key, -inf; the first query is `distance` further on."""
    back = distance + torch.arange(num_rows)[:, None] - torch.arange(num_keys)
    hidden = (back < 0) if window is None else (back < 0) | (back >= window)
    return torch.zeros(num_rows, 1, num_keys, dtype=torch.bfloat16).masked_fill_(hidden[:, None], float("-inf"))


@dataclass(frozen=True)
class _Filled:
    """Samples, the longest first, each `[K, L]` and filled up with its last token to an L of few sizes.

    Attributes:
        taken: `[P * K]`, which token and head, of T x K, stands at each place.
        places: `[T * K]`, where each stands.
        copies: where those stand that fill up.
        shapes: of samples of the same L: heads of them all, and L.
        half_logs: `[T * K, 1, 1]`, half the logarithm of how many tokens of its sample each one sees.
    """

    taken: Tensor
    places: Tensor
    copies: Tensor
    shapes: tuple[tuple[int, int], ...]
    half_logs: Tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """`[P * K, ...]` of `[T * K, ...]`."""
        return tensor.index_select(0, self.taken)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """`[K, L, ...]` of samples of the same L, of `[P * K, ...]`."""
        parts = tensor.split([heads * length for heads, length in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]


# All layers of a micro-batch that see as far ask the same, for one half of its samples or for the other.
@lru_cache(maxsize=8)
def _fill_up(borders: tuple[int, ...], num_groups: int) -> _Filled:
    taken, is_own, shapes = [], [], []
    group = torch.arange(num_groups)[:, None]
    for samples in _put_together(borders, num_groups):
        starts, ends = torch.tensor(samples)[..., None, None].unbind(1)
        length = -(-(samples[0][1] - samples[0][0]) // GRAIN) * GRAIN
        token = starts + torch.arange(length)
        taken.append((token.minimum(ends - 1) * num_groups + group).flatten())
        is_own.append((token < ends).expand(-1, num_groups, -1).flatten())
        shapes.append((len(samples) * num_groups, length))
    own, everything = torch.cat(is_own), torch.cat(taken)
    places = torch.empty(borders[-1] * num_groups, dtype=torch.long)
    places[everything[own]] = own.nonzero()[:, 0]
    seen = torch.cat([torch.arange(1, end - start + 1) for start, end in pairwise(borders)])
    half_logs = seen.log().div_(2).repeat_interleave(num_groups).view(-1, 1, 1)
    return _Filled(everything, places, (~own).nonzero()[:, 0], tuple(shapes), half_logs)


def _put_together(borders: tuple[int, ...], num_groups: int) -> list[list[tuple[int, int]]]:
    """Where samples begin and end, the longest first; those of similar lengths together, `BATCH` heads of them."""
    together: list[list[tuple[int, int]]] = []
    for start, end in sorted(pairwise(borders), key=lambda sample: sample[0] - sample[1]):
        first = together[-1][0] if together else (0, 0)
        is_full = not together or len(together[-1]) * num_groups >= BATCH
        if not is_full and end - start >= SIMILAR * (first[1] - first[0]):
            together[-1].append((start, end))
        elif end > start:
            together.append([(start, end)])
    return together


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
        if heads[0].dtype == torch.bfloat16:
            return *_undo_whole(grad_outputs[0], *heads, log_sums=log_sums, scaling=ctx.scaling), None
        wide = (tensor.float() for tensor in (grad_outputs[0], *heads))
        grads = _backward(*wide, log_sums, 0.0, is_causal=False, scale=ctx.scaling)
        return *(grad.to(heads[0].dtype) for grad in grads), None


def _undo_whole(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, log_sums: Tensor, scaling: float
) -> list[Tensor]:
    """Gradients of query, key and value, `[N, H, L, D]` each, in their type and by products in it."""
    rows = [tensor.flatten(0, 1).unsqueeze(2) for tensor in (query, key, value, grad, out, log_sums.unsqueeze(-1))]
    read = _prepare(*rows, half_logs=0.5 * math.log(query.shape[2]), scaling=scaling)
    written = [torch.empty_like(rows[0]) for _ in range(3)]
    for pictures in zip(*(tensor.split(4 * BATCH) for tensor in (*read, *written)), strict=True):
        _undo_samples(*pictures, scaling=scaling, is_causal=False)
    return [tensor.view(query.shape) for tensor in written]
