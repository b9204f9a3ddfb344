"""Sums over ranks, and the gradient norm over parameters that live on different meshes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from vlmforge.parallel.watch import doing

# Of a whole embedding's gradient, the squares, or a copy in float32, would be a step's largest tensor.
PIECE_ELEMENTS = 2**22
# On a CPU torch adds squares up one after the other: of a million in float32 the sum is 1e-5 off, of thirty million
# 1e-3.
ROW_ELEMENTS = 2**10


def sum_over_ranks(values: Sequence[float], device: torch.device, num_copies: int = 1) -> list[float]:
    """Sum each number over all ranks, in float64.

    Args:
        values: this rank's.
        device: that the backend of the process group works on.
        num_copies: how many ranks hold the same numbers, each to be counted once.
    """
    total = torch.tensor(values, dtype=torch.float64, device=device)
    with doing("sum over ranks"):
        dist.all_reduce(total)
    return (total / num_copies).tolist()


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on at least one rank."""
    return sum_over_ranks([float(flag)], device)[0] > 0


def total_grad_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all gradients together, a plain fp32 scalar, equal on every rank.

    torch's `clip_grad_norm_` refuses gradients on different meshes and mixtures of DTensor and Tensor. Here each
    kind is summed by itself: squares of local shards, then over the mesh axes that shard them.

    Args:
        parameters: those without a gradient are passed over. A plain tensor counts as replicated on every rank.
    """
    groups: defaultdict[object, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        grad = parameter.grad
        if isinstance(grad, DTensor):
            groups[(grad.device_mesh, grad.placements)].append(grad)
        elif grad is not None:
            groups[None].append(grad)
    squares = [_square_sum(grads) for grads in groups.values()]
    return torch.stack(squares).sum().sqrt().float() if squares else torch.zeros(())


def _square_sum(grads: Sequence[Tensor]) -> Tensor:
    """Sum of squares over gradients of one mesh and placement, in float64."""
    locals_ = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads]
    pieces = (piece for local in locals_ for piece in local.reshape(-1).split(PIECE_ELEMENTS))
    total = torch.stack([_square_sum_of_piece(piece.float()) for piece in pieces]).sum()
    first = grads[0]
    if isinstance(first, DTensor):
        for axis, placement in enumerate(first.placements):
            assert not placement.is_partial(), "a gradient that is not reduced yet has no norm"
            # Not `is_shard`: a dim that tp has cut before is cut by FSDP in strides, which is another class.
            if not placement.is_replicate():
                dist.all_reduce(total, group=first.device_mesh.get_group(axis))
    return total


def _square_sum_of_piece(flat: Tensor) -> Tensor:
    """In float64: of short rows the norms, and then of these."""
    num_whole = len(flat) // ROW_ELEMENTS * ROW_ELEMENTS
    rows, rest = flat[:num_whole].view(-1, ROW_ELEMENTS), flat[num_whole:]
    norms = torch.cat([torch.linalg.vector_norm(rows, dim=1), torch.linalg.vector_norm(rest)[None]])
    return norms.double().square().sum()


def scale_grads(parameters: Iterable[Tensor], factor: Tensor) -> None:
    """Multiply every gradient by a plain scalar, in place."""
    locals_ = [
        grad.to_local() if isinstance(grad, DTensor) else grad
        for grad in (parameter.grad for parameter in parameters)
        if grad is not None
    ]
    for local in locals_:
        local.mul_(factor)


def clip_grads(parameters: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """Scale gradients in place so that their total norm is at most `max_norm`; return the norm before."""
    parameters = list(parameters)
    norm = total_grad_norm(parameters)
    if max_norm is not None:
        # As torch does: the small number keeps a zero gradient from dividing by zero.
        scale_grads(parameters, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm
