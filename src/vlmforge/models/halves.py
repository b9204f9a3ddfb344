"""Layers whose two halves of the samples two threads compute side by side, on a CPU.

Threads that share out one operation wait for each other at the end of each, and what it does before and after it is
shared out is done by one. With samples of their own, which see nothing of each other, they wait once a layer and
direction. The layer stays one node of the graph, inside of what shards it: both halves see its weights while they
are gathered, and their gradients are summed in one order, so that a step gives the same bits each time.
"""

# Shapes: T tokens of all samples, T' with those that fill up, D hidden, N samples or tiles, P patches of a tile.

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from threading import Barrier
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from vlmforge.parallel.heap import make_room

# Of a half, in tokens or patches: matrix products of fewer rows are slower.
FEWEST_ROWS = 512
# Of all rows, in the larger half: where one thread has more, the other waits longer than both would at every operation.
MOST_SHARE = 0.65
# The argument that says where the first half of a row of packed samples ends.
MIDDLE = "halves_middle"

# By the argument that holds the borders of samples, or of pictures, that lie end to end: along which dim they do, and
# what is cut with them.
_END_TO_END: Mapping[str, tuple[int, frozenset[str]]] = {
    "cu_seq_lens_q": (1, frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "position_embeddings", "position_ids"})),
    "cu_seqlens": (0, frozenset({"cu_seqlens", "position_embeddings"})),
}

Arguments = Mapping[str, Any]


def is_steady(layers: Iterable[nn.Module]) -> bool:
    """Whether layers draw no random numbers in training: two threads would draw from one generator, in any order."""
    return not any(_draws(module) for layer in layers for module in layer.modules())


def _draws(module: nn.Module) -> bool:
    """Whether a module has a rate of dropout, drop path or jitter; transformers keeps most as plain attributes."""
    rates = [value for name, value in vars(module).items() if "drop" in name or "jitter" in name]
    if isinstance(module, nn.Dropout):
        rates.append(module.p)
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)


@dataclass(frozen=True)
class Arrangement:
    """A row of packed samples in another order, so that a border of samples is near its middle.

    Attributes:
        taken: `[T']`, which token stands at each place; each half is filled up with copies of the row's last.
        places: `[T]`, where each token stands.
        cu_seq_lens: int32, where samples begin and end; what fills a half up is one more.
        max_seq_len: the longest of them.
        middle: where the first half ends.
    """

    taken: Tensor
    places: Tensor
    cu_seq_lens: Tensor
    max_seq_len: int
    middle: int


def arrange(cu_seq_lens: Tensor, multiple: int) -> Arrangement | None:
    """Samples in two halves of about as many tokens, each filled up to a multiple of `multiple`.

    Args:
        cu_seq_lens: `[N + 1]`, where samples begin and end.
        multiple: of tokens.

    Returns:
        None where a half would be too short, or much longer than the other.
    """
    borders = cu_seq_lens.tolist()
    total = borders[-1]
    pieces: list[Tensor] = []
    sizes: list[int] = []
    for half in _halve([end - start for start, end in pairwise(borders)]):
        samples = [torch.arange(borders[number], borders[number + 1]) for number in half]
        size = sum(map(len, samples))
        if filling := -size % multiple:
            samples.append(torch.full((filling,), total))
        pieces += samples
        sizes.append(size + filling)
    if not _is_worthwhile(*sizes):
        return None
    everything = torch.cat(pieces)
    lengths = torch.tensor([0, *map(len, pieces)])
    return Arrangement(
        taken=everything.clamp(max=total - 1),
        # What fills up comes last.
        places=everything.argsort()[:total],
        cu_seq_lens=lengths.cumsum(0).int(),
        max_seq_len=int(lengths.max()),
        middle=sizes[0],
    )


def _halve(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Positions of lengths whose sum is as near to half of all as any is, from below, and of the others."""
    # Of the number after k lengths, bit s is set if some of them have the sum s.
    reached = [1]
    for length in lengths:
        reached.append(reached[-1] | reached[-1] << length)
    left = (reached[-1] & (1 << sum(lengths) // 2 + 1) - 1).bit_length() - 1
    halves: tuple[list[int], list[int]] = ([], [])
    for k in reversed(range(len(lengths))):
        is_taken = not reached[k] >> left & 1
        halves[not is_taken].append(k)
        left -= lengths[k] * is_taken
    return halves[0][::-1], halves[1][::-1]


def _is_worthwhile(first: int, second: int) -> bool:
    """Whether halves of so many rows are long enough, and about as long as each other."""
    return min(first, second) >= FEWEST_ROWS and max(first, second) <= MOST_SHARE * (first + second)


def apply_halves(layers: Sequence[nn.Module]) -> None:
    """Let each layer compute its samples in two halves, in place; to be called after sharding.

    Args:
        layers: transformer blocks of packed text, of a tower whose pictures lie end to end, or of one whose tiles are
            alike.
    """
    for layer in layers:
        vars(layer)["forward"] = _in_halves(layer, layer.forward)


def _in_halves(layer: nn.Module, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        middle, parts = kwargs.pop(MIDDLE, None), None
        if torch.is_grad_enabled() and all(arg is None for arg in args):
            parts = _divide(hidden_states, middle, kwargs)
        if parts is None:
            return inner(hidden_states, *args, **kwargs)
        weights = [weight for weight in layer.parameters() if weight.requires_grad]
        return _Halves.apply(lambda part, **own: inner(part, *args, **own), parts, hidden_states, *weights)

    return forward


@dataclass(frozen=True)
class _Parts:
    """Along which dim a layer's input falls into two, how long they are, and what else each is called with."""

    dim: int
    sizes: tuple[int, int]
    arguments: tuple[Arguments, Arguments]


def _divide(hidden: Tensor, middle: int | None, kwargs: Arguments) -> _Parts | None:
    """Both parts of what a layer is called with; None where it has to see it in one piece.

    Args:
        hidden: `[1, T, D]` of packed text, `[T, D]` of pictures end to end, or `[N, P, D]` of N tiles.
        middle: of packed text, where it is cut; None: nowhere.
        kwargs: what else it is called with.
    """
    dim, along = next((kind for name, kind in _END_TO_END.items() if name in kwargs), (0, frozenset()))
    if any(name not in along and not _is_for_all(value) for name, value in kwargs.items()):
        return None
    total, num_rows = hidden.shape[dim], hidden.numel() // hidden.shape[-1]
    if "cu_seqlens" in along:
        middle = min(kwargs["cu_seqlens"].tolist(), key=lambda border: abs(2 * border - total))
    elif not along:
        middle = total // 2 if hidden.ndim == 3 else None
    if middle is None or not _is_worthwhile(above := num_rows * middle // total, num_rows - above):
        return None

    first, second = (
        {**kwargs, **{name: _between(name, kwargs[name], dim, *ends) for name in along & kwargs.keys()}}
        for ends in ((0, middle), (middle, total))
    )
    return _Parts(dim, (middle, total - middle), (first, second))


def _is_for_all(value: Any) -> bool:
    """Whether an argument says the same of every sample."""
    return value is None or isinstance(value, (bool, int, float, str))


def _between(name: str, value: Any, dim: int, start: int, end: int) -> Any:
    """An argument's part for the tokens from `start` to `end`."""
    if value is None:
        return None
    if name.startswith("cu_"):
        return _borders_between(value, start, end)
    if isinstance(value, tuple):
        return tuple(part.narrow(dim, start, end - start) for part in value)
    return value.narrow(-1 if name == "position_ids" else dim, start, end - start)


# All layers of a micro-batch ask the same, and what attention makes of borders is kept by their tensor.
@lru_cache(maxsize=8)
def _borders_between(borders: Tensor, start: int, end: int) -> Tensor:
    return borders[(borders >= start) & (borders <= end)] - start


class _Halves(torch.autograd.Function):
    """A layer that two threads compute: its input is cut in two, and so is its graph."""

    @staticmethod
    def forward(ctx: Any, layer: Callable[..., Tensor], parts: _Parts, hidden: Tensor, *weights: Tensor) -> Tensor:
        """As `hidden`."""
        inputs = [part.detach().requires_grad_(hidden.requires_grad) for part in hidden.split(parts.sizes, parts.dim)]

        def compute(half: int) -> tuple[Tensor, Any]:
            with torch.enable_grad():
                output = layer(inputs[half], **parts.arguments[half])
            return output.detach(), get_gradient_edge(output) if output.requires_grad else None

        state = torch.get_rng_state()
        outputs, ctx.edges = zip(*_both(compute), strict=True)
        assert torch.equal(state, torch.get_rng_state()), "two threads drew from one generator"
        ctx.parts, ctx.inputs, ctx.weights = parts, inputs, weights
        make_room()
        return torch.cat(outputs, parts.dim)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Of the input, and of the weights the sum of both halves'."""
        parts, inputs, edges, weights = ctx.parts, ctx.inputs, ctx.edges, ctx.weights
        ctx.parts = ctx.inputs = ctx.edges = ctx.weights = None
        grads = grad_outputs[0].split(parts.sizes, parts.dim)
        is_needed = inputs[0].requires_grad

        def undo(half: int) -> Sequence[Tensor | None]:
            sources = [inputs[half], *weights] if is_needed else weights
            return torch.autograd.grad([edges[half]], sources, [grads[half]], allow_unused=True)

        make_room()
        first, second = (list(found) if is_needed else [None, *found] for found in _both(undo))
        grad_hidden = torch.cat([first[0], second[0]], parts.dim) if is_needed else None
        # From the end, and both are let go with their sum: or a layer's gradients would be there three times.
        sums = [_sum(first.pop(), second.pop()) for _ in weights]
        return None, None, grad_hidden, *reversed(sums)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Not in place: autograd may have given one tensor to two weights."""
    if one is None or other is None:
        return one if other is None else other
    return one + other


def _both(work: Callable[[int], Any]) -> list[Any]:
    """What the two halves come to, by two threads; if one raises, the other has ended too."""
    pool = _threads(os.getpid(), torch.get_num_threads())
    futures = [pool.submit(work, half) for half in (0, 1)]
    wait(futures)
    return [future.result() for future in futures]


@cache
def _threads(pid: int, total: int) -> ThreadPoolExecutor:
    """Two threads of this process, which share out its `total`; a child has none of its parent's."""
    everyone = Barrier(2)

    def start() -> None:
        # The first call lets torch give the thread as many as the process has.
        torch.get_num_threads()
        torch.set_num_threads(total // 2)

    pool = ThreadPoolExecutor(2, thread_name_prefix="half", initializer=start)
    # Both are there before the number is set back: setting it in one is also what later threads start with.
    list(pool.map(lambda _: everyone.wait(), range(2)))
    torch.set_num_threads(total)
    return pool
