"""Layers whose two halves of the samples two threads compute side by side, on a CPU.

Threads that share out one operation wait for each other at the end of each, and what it does
before and after it is shared out is done by one. With samples of their own, which see nothing of each other, they wait
once a layer. The layer stays one node of the graph, inside of what shards it: both halves see its weights while they
are gathered, and their gradients are summed in one order, so that a step gives the same bits each time.
"""

# Shapes: T tokens of all samples, D hidden, N samples, n of them in the first half; t tokens of that half.

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from threading import Barrier
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from transformers import PreTrainedModel

# Of a half, in tokens or patches: matrix products of fewer rows are slower.
FEWEST_ROWS = 512
# Of all rows, in the larger half: where one thread has more, the other waits longer than both would at every operation.
MOST_SHARE = 0.65
# The argument that says where the first half of a row of packed samples ends.
CUT = "halves_cut"
# In the names of fields that make a layer draw random numbers in training, if they are not 0.
_DRAWN = ("dropout", "pdrop", "drop_path", "drop_rate", "jitter", "crops_positions")

Arguments = Mapping[str, Any]


def is_steady(model: PreTrainedModel) -> bool:
    """Whether a forward pass only reads what threads share.

    Layers that drop draw from one generator, and some rotary angles are made anew for a sample longer than any before.
    """
    drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    return not drops and not any(_is_unsteady(*field) for field in _fields(model.config.to_dict()))


def _is_unsteady(name: str, value: Any) -> bool:
    if name == "rope_type":
        return value in ("dynamic", "longrope")
    return bool(value) and any(word in name for word in _DRAWN)


def _fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Of a config and of those in it."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _fields(value)
        else:
            yield str(name), value


@dataclass(frozen=True)
class Arrangement:
    """A row of packed samples in another order, so that a border of samples is near its middle.

    Attributes:
        taken: `[T']`, which token stands at each place; each half is filled up with the row's first token.
        places: `[T]`, where each token stands.
        cu_seq_lens: int32, where samples begin and end; what fills a half up is one more.
        cut: where the first half ends.
    """

    taken: Tensor
    places: Tensor
    cu_seq_lens: Tensor
    cut: int


def arrange(cu_seq_lens: Tensor, multiple: int) -> Arrangement | None:
    """Samples in two halves of about as many tokens, each a multiple of `multiple`; None: there are too few."""
    borders = cu_seq_lens.tolist()
    halves: tuple[list[int], list[int]] = ([], [])
    sums = [0, 0]
    lengths = [end - start for start, end in pairwise(borders)]
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        half = int(sums[1] < sums[0])
        halves[half].append(number)
        sums[half] += lengths[number]
    if not _is_worthwhile(*sums):
        return None
    pieces: list[Tensor] = []
    ends = [0]
    places = torch.empty(borders[-1], dtype=torch.long)
    cuts: list[int] = []
    for half in halves:
        for number in sorted(half):
            tokens = torch.arange(borders[number], borders[number + 1])
            places[tokens] = torch.arange(ends[-1], ends[-1] + len(tokens))
            pieces.append(tokens)
            ends.append(ends[-1] + len(tokens))
        if missing := -ends[-1] % multiple:
            pieces.append(torch.zeros(missing, dtype=torch.long))
            ends.append(ends[-1] + missing)
        cuts.append(ends[-1])
    return Arrangement(torch.cat(pieces), places, torch.tensor(ends, dtype=torch.int32), cuts[0])


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
        cut = kwargs.pop(CUT, None)
        is_alone = not torch.is_grad_enabled() or any(arg is not None for arg in args)
        halves = None if is_alone else _cut(hidden_states, cut, kwargs)
        if halves is None:
            return inner(hidden_states, *args, **kwargs)
        weights = [weight for weight in layer.parameters() if weight.requires_grad]
        return _Halves.apply(lambda half, **own: inner(half, *args, **own), halves, hidden_states, *weights)

    return forward


@dataclass(frozen=True)
class _Cut:
    """Where a layer's input is cut, and what else it is called with for each half."""

    dim: int
    sizes: tuple[int, int]
    arguments: tuple[Arguments, Arguments]


def _cut(hidden: Tensor, cut: int | None, kwargs: Arguments) -> _Cut | None:
    """Both halves of what a layer is called with; None where it does not fall apart."""
    if "cu_seq_lens_q" in kwargs:
        return None if cut is None else _cut_text(hidden, cut, kwargs)
    if "cu_seqlens" in kwargs:
        return _cut_pictures(hidden, kwargs)
    is_alone = not any(isinstance(value, Tensor) for value in kwargs.values())
    if hidden.ndim < 3 or not is_alone:
        return None
    first, second = len(hidden) // 2, len(hidden) - len(hidden) // 2
    if not _is_worthwhile(first * hidden.shape[1], second * hidden.shape[1]):
        return None
    return _Cut(0, (first, second), (kwargs, kwargs))


def _cut_text(hidden: Tensor, cut: int, kwargs: Arguments) -> _Cut:
    """Of `[1, T, D]`."""
    total = hidden.shape[1]
    angles, positions, borders = (kwargs[name] for name in ("position_embeddings", "position_ids", "cu_seq_lens_q"))
    halves: list[Arguments] = []
    for start, end in ((0, cut), (cut, total)):
        own = borders[(borders >= start) & (borders <= end)] - start
        halves.append(
            {
                **kwargs,
                "position_embeddings": _map(angles, lambda part, s=start, e=end: part[:, s:e]),
                "position_ids": None if positions is None else positions[..., start:end],
                "cu_seq_lens_q": own,
                "cu_seq_lens_k": own,
            }
        )
    return _Cut(1, (cut, total - cut), (halves[0], halves[1]))


def _cut_pictures(hidden: Tensor, kwargs: Arguments) -> _Cut | None:
    """Of `[T, D]`, at the border of two pictures, or windows, that is nearest to the middle."""
    borders, angles, total = kwargs["cu_seqlens"], kwargs["position_embeddings"], len(hidden)
    cut = min(borders.tolist(), key=lambda border: abs(2 * border - total))
    if not _is_worthwhile(cut, total - cut):
        return None
    halves = [
        {
            **kwargs,
            "cu_seqlens": borders[(borders >= start) & (borders <= end)] - start,
            "position_embeddings": _map(angles, lambda part, s=start, e=end: part[s:e]),
        }
        for start, end in ((0, cut), (cut, total))
    ]
    return _Cut(0, (cut, total - cut), (halves[0], halves[1]))


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Of a tensor, or of each in a tuple."""
    return function(value) if isinstance(value, Tensor) else tuple(function(part) for part in value)


class _Halves(torch.autograd.Function):
    """A layer, whose graph of each half is a thread's own in both directions."""

    @staticmethod
    def forward(ctx: Any, layer: Callable[..., Tensor], cut: _Cut, hidden: Tensor, *weights: nn.Parameter) -> Tensor:
        """As `hidden`, of which samples are cut along a dim."""
        inputs = [part.detach().requires_grad_(hidden.requires_grad) for part in hidden.split(cut.sizes, cut.dim)]

        def compute(half: int) -> tuple[Tensor, Any]:
            with torch.enable_grad():
                output = layer(inputs[half], **cut.arguments[half])
            return output.detach(), get_gradient_edge(output) if output.requires_grad else None

        state = torch.get_rng_state()
        outputs, ctx.edges = zip(*_both(compute), strict=True)
        assert torch.equal(state, torch.get_rng_state()), "two threads drew from one generator"
        ctx.cut, ctx.inputs, ctx.weights = cut, inputs, weights
        return torch.cat(outputs, cut.dim)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Of the input, and of the weights the sum of both halves'."""
        (cut, inputs, edges), weights = (ctx.cut, ctx.inputs, ctx.edges), ctx.weights
        ctx.inputs = ctx.edges = ctx.weights = None
        grads = grad_outputs[0].split(cut.sizes, cut.dim)
        is_needed = inputs[0].requires_grad

        def undo(half: int) -> Sequence[Tensor | None]:
            sources = [inputs[half], *weights] if is_needed else weights
            return torch.autograd.grad([edges[half]], sources, [grads[half]], allow_unused=True)

        first, second = (list(found) if is_needed else [None, *found] for found in _both(undo))
        grad_hidden = torch.cat([first[0], second[0]], cut.dim) if is_needed else None
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
    pool = _threads(os.getpid())
    futures = [pool.submit(work, half) for half in (0, 1)]
    wait(futures)
    return [future.result() for future in futures]


@cache
def _threads(pid: int) -> ThreadPoolExecutor:
    """Two threads of this process, which share out the cores; a child has none of its parent's."""
    total, everyone = torch.get_num_threads(), Barrier(2)

    def start() -> None:
        # The first call lets torch give the thread as many as the process has.
        torch.get_num_threads()
        torch.set_num_threads(max(1, total // 2))

    pool = ThreadPoolExecutor(2, thread_name_prefix="half", initializer=start)
    # Both are there before the number is set back: setting it in one is also what later threads start with.
    list(pool.map(lambda _: everyone.wait(), range(2)))
    torch.set_num_threads(total)
    return pool
