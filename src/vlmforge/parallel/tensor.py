"""Tensor parallelism: one matrix over several ranks, each with its columns or rows of it (Megatron-LM).

A layer's first matrices are cut by their outputs and its last by its inputs, so that between them every rank has its
own heads or its own part of the width, and the ranks meet once a block (Shoeybi et al. 2019, arXiv:1909.08053).
Weights are DTensors, which sharding, checkpoints and exports understand; while a module runs it sees its local part.
What is not cut is the same on every rank and must stay so: its gradient is, or it is summed here.
"""

# Shapes: T tokens, I inputs and O outputs of a matrix, R ranks.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from vlmforge.parallel.styles import Style

# Where a tensor keeps what `share` made of it.
_SHARED = "_vlmforge_shared"


@dataclass(frozen=True)
class TensorRanks:
    """The ranks that share each matrix, and this one's place among them.

    Attributes:
        mesh: of one axis.
        rank: which part is this rank's.
        size: number of parts.
    """

    mesh: DeviceMesh
    rank: int
    size: int

    @property
    def group(self) -> dist.ProcessGroup:
        """Their process group."""
        return self.mesh.get_group()

    def share(self, tensor: Tensor) -> Tensor:
        """A tensor that every rank has, for use in the ranks' own parts: its gradient is the sum of theirs.

        Used several times, by the query, key and value matrices of a layer, a tensor is shared and its gradient
        summed once.
        """
        if self.size == 1 or not (tensor.requires_grad and torch.is_grad_enabled()):
            return tensor
        shared: Tensor | None = getattr(tensor, _SHARED, None)
        if shared is None:
            shared = share_gradient(tensor, self.group)
            setattr(tensor, _SHARED, shared)
        return shared

    def sum(self, part: Tensor) -> Tensor:
        """The sum of every rank's part, on every rank."""
        return part if self.size == 1 else _Sum.apply(part, self.group)

    def largest(self, part: Tensor) -> Tensor:
        """The largest of every rank's part, number by number, on every rank; in place, and without a gradient."""
        if self.size > 1:
            dist.all_reduce(part, dist.ReduceOp.MAX, group=self.group)
        return part

    def gather(self, part: Tensor) -> Tensor:
        """The ranks' parts end to end along the last dim, on every rank."""
        return part if self.size == 1 else _Gather.apply(part, self)

    def first(self, length: int) -> int:
        """Where this rank's part of `length` rows or columns begins."""
        assert length % self.size == 0, f"{length} cannot be cut into {self.size} equal parts"
        return self.rank * (length // self.size)


def build_tensor_ranks(mesh: DeviceMesh) -> TensorRanks:
    """The ranks of a mesh of one axis."""
    return TensorRanks(mesh, mesh.get_local_rank(), mesh.size())


class _ShareGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        # Not a view: `share` keeps it on the tensor, which a view would keep alive in turn, step after step.
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        total = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def share_gradient(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The tensor itself; its gradient is summed over the ranks."""
    return _ShareGradient.apply(tensor, group)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        # In memory of its own: a caller may add to it in place.
        total = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: TensorRanks) -> Tensor:
        ctx.ranks = ranks
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(ranks.size)]
        dist.all_gather(parts, part.contiguous(), group=ranks.group)
        return torch.cat(parts, dim=-1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        ranks: TensorRanks = ctx.ranks
        return grad_outputs[0].chunk(ranks.size, dim=-1)[ranks.rank], None


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor; a gradient flows back into it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_cut(linear: nn.Module) -> bool:
    """Whether ranks share a linear layer: then its forward pass is not one product of one tensor."""
    weight = linear.get_parameter("weight")
    return local_tensor(weight) is not weight or "forward" in vars(linear)


@contextmanager
def local_parameters(module: nn.Module, without: tuple[str, ...] = ()) -> Iterator[None]:
    """Let a module see plain tensors, its own parts, in the place of its parameters while it runs."""
    kept = dict(module._parameters)
    seen: dict[str, Any] = {name: None if p is None or name in without else local_tensor(p) for name, p in kept.items()}
    # Recompute leaves a forward by an exception as soon as it has what it wants, so a hook would not do.
    module._parameters.update(seen)
    try:
        yield
    finally:
        module._parameters.update(kept)


def place(module: nn.Module, dims: Mapping[str, int], mesh: DeviceMesh) -> None:
    """Cut parameters of a module along these dims, in place; each rank keeps its part of what every rank has."""
    for name, dim in dims.items():
        parameter = module._parameters.get(name)
        if parameter is not None:
            assert parameter.shape[dim] % mesh.size() == 0, f"{name} {list(parameter.shape)} over {mesh.size()} ranks"
            cut = distribute_tensor(parameter.detach(), mesh, [Shard(dim)], src_data_rank=None)
            setattr(module, name, nn.Parameter(cut, requires_grad=parameter.requires_grad))


def shard_module(module: nn.Module, style: Style, ranks: TensorRanks) -> None:
    """Cut a module's parameters and change its forward to work with the parts, in place; on meta.

    Args:
        module: a linear layer, an embedding, or a norm of a head.
        style: any but experts.
        ranks: that share the module.
    """
    if style == "replicated":
        return
    if style == "vocab":
        dims = {"weight": 0}
        forward = _lookup(module, ranks) if isinstance(module, nn.Embedding) else _colwise_gathered(module, ranks)
    else:
        dims, forward = {
            "colwise": ({"weight": 0, "bias": 0}, _colwise(module, ranks)),
            "rowwise": ({"weight": 1}, _rowwise(module, ranks)),
            "by_head": ({}, _by_head(module, ranks)),
        }[style]
    place(module, dims, ranks.mesh)
    vars(module)["forward"] = forward


Forward = Callable[[Tensor], Tensor]


def _colwise(module: nn.Module, ranks: TensorRanks) -> Forward:
    """`[..., I]`, the same on every rank, to this rank's part of `[..., O]`."""
    inner = module.forward

    def forward(inputs: Tensor) -> Tensor:
        with local_parameters(module):
            return inner(ranks.share(inputs))

    return forward


def _colwise_gathered(module: nn.Module, ranks: TensorRanks) -> Forward:
    colwise = _colwise(module, ranks)
    return lambda inputs: ranks.gather(colwise(inputs))


def _rowwise(module: nn.Module, ranks: TensorRanks) -> Forward:
    """This rank's part of `[..., I]` to the whole `[..., O]`."""
    inner = module.forward

    def forward(inputs: Tensor) -> Tensor:
        with local_parameters(module, without=("bias",)):
            total = ranks.sum(inner(inputs))
        bias = module._parameters.get("bias")
        return total if bias is None else total + bias

    return forward


def _by_head(module: nn.Module, ranks: TensorRanks) -> Forward:
    """The whole weight on this rank's heads: each rank's gradient of it is of its own heads only."""
    inner = module.forward

    def forward(inputs: Tensor) -> Tensor:
        kept = dict(module._parameters)
        # Not `ranks.share`: a parameter lives on, and would keep what was made of it in another step. In fp32, for
        # these are sums of weights' gradients, as are FSDP's.
        shared: dict[str, Any] = {
            name: None if parameter is None else share_gradient(parameter.float(), ranks.group).to(parameter.dtype)
            for name, parameter in kept.items()
        }
        module._parameters.update(shared)
        try:
            return inner(inputs)
        finally:
            module._parameters.update(kept)

    return forward


def _lookup(embedding: nn.Embedding, ranks: TensorRanks) -> Forward:
    """Token ids to embeddings: each rank looks up the tokens that it has."""
    inner = embedding.forward
    length = embedding.num_embeddings // ranks.size
    first, padding = ranks.first(embedding.num_embeddings), embedding.padding_idx

    def forward(input_ids: Tensor) -> Tensor:
        is_mine = (input_ids >= first) & (input_ids < first + length)
        # The row of padding has no gradient, and counts from this rank's first.
        has_padding = padding is not None and first <= padding < first + length
        embedding.padding_idx = padding - first if has_padding and padding is not None else None
        try:
            with local_parameters(embedding):
                found = inner((input_ids - first).masked_fill(~is_mine, 0))
        finally:
            embedding.padding_idx = padding
        return ranks.sum(found.masked_fill(~is_mine.unsqueeze(-1), 0.0))

    return forward


class SlicedDropout(nn.Module):
    """Dropout of this rank's part of a tensor, by the mask that one rank would have drawn for the whole."""

    def __init__(self, p: float, ranks: TensorRanks) -> None:
        """Drop with probability `p`."""
        super().__init__()
        self.p = p
        self.ranks = ranks

    def forward(self, part: Tensor) -> Tensor:
        """`[..., I / R]`, in training a part of it zero and the rest scaled up."""
        if not self.training or self.p == 0.0:
            return part
        # Every rank draws the whole mask, as a single process does, and leaves its generator in the same state.
        whole = F.dropout(part.new_ones((*part.shape[:-1], part.shape[-1] * self.ranks.size)), self.p)
        return part * whole.chunk(self.ranks.size, dim=-1)[self.ranks.rank]
