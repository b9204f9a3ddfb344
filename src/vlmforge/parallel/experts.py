"""Expert parallelism: each rank holds some of a layer's experts whole, and tokens travel to them and back.

The ranks that share the experts of a layer are those along tp, and with `ep` above tp further ones of dp_shard and cp
too. Along tp every rank has the same tokens and answers for its own experts, and the answers are summed. The others
have tokens of their own: an all-to-all brings each token's state to the rank of its expert, another one brings the
answer back. No token is dropped.
"""

# Shapes: T tokens, D hidden, K experts of a token, N rows that have come to this rank, each for one of its experts.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from vlmforge.parallel.mesh import World
from vlmforge.parallel.tensor import TensorRanks, build_tensor_ranks

# What a rank does with its rows `[N, D]`, given each one's expert `[N]`, counted from the rank's first.
Run = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ExpertRanks:
    """The ranks that share the experts of a layer.

    Attributes:
        tensor: those with the same tokens.
        senders: group of those with other tokens, one of each tp group.
        num_senders: how many those are.
        placement: mesh of one axis over all of them; experts are cut along it.
        weight_mesh: axes `dp_replicate, fsdp` over which the experts are copied and sharded further; None: those of
            all other weights.
    """

    tensor: TensorRanks
    senders: dist.ProcessGroup
    num_senders: int
    placement: DeviceMesh
    weight_mesh: DeviceMesh | None

    def spread(
        self,
        hidden: Tensor,
        index: Tensor,
        weights: Tensor,
        run: Run,
        *,
        num_local: int,
        weighs_inputs: bool,
    ) -> Tensor:
        """`[T, D]`: the weighted sum of what its experts make of each token.

        Args:
            hidden: `[T, D]`.
            index: `[T, K]`, each token's experts among all.
            weights: `[T, K]`, how much each counts.
            run: this rank's experts.
            num_local: how many experts a rank holds.
            weighs_inputs: weights scale what goes into the experts, not what comes out.
        """
        hidden, weights = self.tensor.share(hidden), self.tensor.share(weights)
        holder = index // num_local
        token, slot = torch.where(holder % self.tensor.size == self.tensor.rank)
        order = torch.argsort(holder[token, slot], stable=True)
        token, slot = token[order], slot[order]
        scale = weights[token, slot].unsqueeze(-1)
        rows = hidden[token]
        answers = self._ask(
            rows * scale if weighs_inputs else rows,
            holder[token, slot] // self.tensor.size,
            index[token, slot] % num_local,
            run,
        )
        if not weighs_inputs:
            answers = answers * scale
        total = torch.zeros_like(hidden).index_add(0, token, answers.to(hidden.dtype))
        return self.tensor.sum(total)

    def _ask(self, rows: Tensor, owner: Tensor, expert: Tensor, run: Run) -> Tensor:
        """What the owners of rows, sorted by owner, make of them."""
        if self.num_senders == 1:
            return run(rows, expert)
        sent = torch.bincount(owner, minlength=self.num_senders)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.senders)
        to, back = sent.tolist(), received.tolist()
        theirs = _exchange(expert, back, to, self.senders)
        answers = run(_Exchange.apply(rows, back, to, self.senders), theirs)
        return _Exchange.apply(answers, to, back, self.senders)


class _Exchange(torch.autograd.Function):
    """Rows sorted by the rank that they go to, for rows sorted by the rank that they come from; back for gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.plan = (sent, received, group)
        return _exchange(rows, received, sent, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchange(grad_outputs[0], *ctx.plan), None, None, None


def _exchange(rows: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
    result = rows.new_empty((sum(received), *rows.shape[1:]))
    dist.all_to_all_single(result, rows.contiguous(), received, sent, group=group)
    return result


def build_expert_ranks(world: World) -> ExpertRanks:
    """Who holds a layer's experts, for `ep` that is 1 or a multiple of tp; a collective of all ranks."""
    axes = world.axes
    num_holders = max(axes.ep, axes.tp)
    num_senders = num_holders // axes.tp
    tensor = build_tensor_ranks(world.weight_mesh["tp"])
    outer = world.world_size // num_holders
    senders = init_device_mesh(
        world.device.type, (outer, num_senders, axes.tp), mesh_dim_names=("outer", "senders", "tp")
    )
    if num_senders == 1:
        return ExpertRanks(tensor, senders.get_group("senders"), 1, world.weight_mesh["tp"], None)
    sizes = (axes.dp_replicate, outer // axes.dp_replicate, num_holders)
    mesh = init_device_mesh(world.device.type, sizes, mesh_dim_names=("dp_replicate", "fsdp", "ep"))
    return ExpertRanks(tensor, senders.get_group("senders"), num_senders, mesh["ep"], mesh["dp_replicate", "fsdp"])
