"""Context parallelism: one sequence over several ranks, exchanged for heads around attention (DeepSpeed-Ulysses).

Everything in a decoder but attention treats tokens one by one, so each rank holds a slice of the tokens. Attention
needs the whole sequence, but treats heads one by one: before it the ranks exchange slices for heads, and after it
back (Jacobs et al. 2023, arXiv:2309.14509).
"""

# Shapes: T tokens of the whole sequence, S tokens of one rank's slice, H heads, K key-value heads, D head_dim,
# R ranks.

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class SequenceSplit:
    """The ranks that share a sequence, and this one's place among them.

    Attributes:
        group: their process group.
        rank: which slice is this rank's.
        size: number of slices.
    """

    group: dist.ProcessGroup
    rank: int
    size: int

    def take(self, tokens: Tensor, dim: int = 1) -> Tensor:
        """This rank's slice of something that every rank has in full; `dim` must be a multiple of `size` long."""
        length = tokens.shape[dim]
        assert length % self.size == 0, f"{length} tokens are not {self.size} equal slices"
        return tokens.narrow(dim, self.rank * (length // self.size), length // self.size)

    def join(self, tokens: Tensor) -> Tensor:
        """`[1, S, ...]` of every rank to `[1, T, ...]` on every rank; what `take` takes apart, without gradients."""
        parts = [torch.empty_like(tokens) for _ in range(self.size)]
        dist.all_gather(parts, tokens.detach().contiguous(), group=self.group)
        return torch.cat(parts, dim=1)

    @contextmanager
    def same_draws(self, device: torch.device) -> Iterator[None]:
        """Let every rank draw the same random numbers inside, those of the first: what all compute whole is then equal.

        Outside each draws its own, for tokens of its own. A collective.
        """
        seed = torch.randint(2**62, (1,), device=device)
        dist.broadcast(seed, group=self.group, group_src=0)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed.item()))
            yield

    def gather_tokens(self, slices: Tensor) -> Tensor:
        """`[1, H, S, D]` of all heads to `[1, H / R, T, D]` of this rank's; H must be a multiple of R."""
        _, num_heads, length, width = slices.shape
        by_owner = slices.reshape(self.size, num_heads // self.size, length, width)
        return _exchange(by_owner, self.group).transpose(0, 1).reshape(1, -1, self.size * length, width)

    def gather_heads(self, heads: Tensor) -> Tensor:
        """`[1, T, H / R, D]` of this rank's heads to `[1, S, H, D]` of its slice."""
        _, num_tokens, num_heads, width = heads.shape
        by_owner = heads.reshape(self.size, num_tokens // self.size, num_heads, width)
        return _exchange(by_owner, self.group).transpose(0, 1).reshape(1, -1, self.size * num_heads, width)

    def share_heads(self, heads: Tensor) -> Tensor:
        """Key-value heads `[1, K, S, D]`, repeated until every rank gets equally many; their gradients are summed.

        Neighbouring query heads share a key-value head. After repeating each of the K to `lcm(K, R) / K` copies, a
        rank's query heads find theirs among its own, because the number of query heads is a multiple of both.
        """
        num_heads = heads.shape[1]
        return heads.repeat_interleave(math.lcm(num_heads, self.size) // num_heads, dim=1)


class _Exchange(torch.autograd.Function):
    """All-to-all along dim 0: what stands at r goes to rank r. Its transpose, for gradients, is itself."""

    @staticmethod
    def forward(ctx: Any, pieces: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_to_all(pieces, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(grad_outputs[0], ctx.group), None


def _exchange(pieces: Tensor, group: dist.ProcessGroup) -> Tensor:
    """`[R, ...]`: one piece for each rank, to one piece from each."""
    return _Exchange.apply(pieces, group)


def _all_to_all(pieces: Tensor, group: dist.ProcessGroup) -> Tensor:
    pieces = pieces.contiguous()
    received = torch.empty_like(pieces)
    dist.all_to_all_single(received, pieces, group=group)
    return received
