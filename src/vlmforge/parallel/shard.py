"""Sharding of weights, gradients and optimizer over the data ranks: FSDP2, or HSDP where there are replicas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from vlmforge.parallel.watch import doing


@dataclass(frozen=True)
class Apart:
    """Modules of a model whose weights are shared out over other ranks than the rest.

    Attributes:
        modules: the innermost first.
        mesh: axes `dp_replicate, fsdp` of their weights.
        num_copies: how many of the ranks that share a weight compute the same gradient of it.
    """

    modules: Sequence[nn.Module]
    mesh: DeviceMesh
    num_copies: int = 1


def apply_fsdp(
    root: nn.Module,
    layers: Sequence[nn.Module],
    mesh: DeviceMesh,
    *,
    param_dtype: torch.dtype,
    reduce_dtype: torch.dtype,
    apart: Sequence[Apart] = (),
    is_offloaded: bool = False,
    cast_by_layers: Collection[nn.Parameter] = (),
) -> None:
    """Shard each layer by itself and the rest (embedding, norm, head) with the root, in place.

    Gradients are summed over ranks, not averaged: the loss is divided by the global number of label tokens already.

    Args:
        root: the module whose forward is the training step.
        layers: its transformer blocks, in order.
        mesh: axes `dp_replicate, fsdp, tp`; weights that tp has cut are cut further.
        apart: experts, where they are on ranks of their own; tower and projector, which tp does not cut. Of `layers`
            those that are named here too are sharded here.
        param_dtype: type of the gathered weights and of the computation.
        reduce_dtype: type in which gradients are summed.
        is_offloaded: shards, their gradients and with them the optimizer are in CPU memory.
        cast_by_layers: weights whose layers cast them themselves, for which one rank needs no FSDP if their
            gradients are summed in their own type.
    """
    # What enters a layer keeps its type: the rotary tables of a vision tower are float32 on purpose.
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=reduce_dtype, cast_forward_inputs=False)
    used, offload = _used_axes(mesh), _offload_policy(mesh, is_offloaded)
    as_they_are: set[nn.Parameter] = set()
    if dist.get_world_size() == 1 and not is_offloaded:
        as_they_are = {
            *(p for p in cast_by_layers if p.dtype == reduce_dtype),
            *(p for p in root.parameters() if _is_used_as_stored(p, policy)),
        }
        layers = [layer for layer in layers if any(p not in as_they_are for p in layer.parameters())]
        if all(parameter in as_they_are for parameter in root.parameters()):
            return
    options: dict[str, Any] = {"mp_policy": policy, "offload_policy": offload, "ignored_params": as_they_are}
    num_copies: dict[nn.Module, int] = {}
    for other in apart:
        num_copies |= dict.fromkeys(other.modules, other.num_copies)
        for module in other.modules:
            fully_shard(module, mesh=_used_axes(other.mesh), **options)
    for layer in layers:
        if layer not in num_copies:
            fully_shard(layer, mesh=used, **options)
    # The root's weights are used first and last in a forward: freeing them in between only gathers them twice.
    fully_shard(root, mesh=used, **options, reshard_after_forward=False)
    for module in root.modules():
        # One rank sums nothing, and there a factor of 1 would be a division of every gradient by 1.
        if isinstance(module, FSDPModule) and dist.get_world_size() == 1:
            # torch has no public name for the class that it expects, and asks for no more than its methods.
            module.set_custom_reduce_scatter(_NothingToSum())  # pyright: ignore[reportArgumentType]
        if isinstance(module, FSDPModule) and (used.size() > 1 or module in num_copies):
            # gloo cannot scale while it reduces, so the sum is asked for by name.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(float(num_copies.get(module, 1)))


class _NothingToSum:
    """What enters the sum over one rank is what comes out: one buffer for both, and no copy from one to the other."""

    def __init__(self) -> None:
        self._waiting: Tensor | None = None

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer to fill, and at the next call the same one as the result."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            assert waiting.shape == torch.Size(size), "FSDP asks for what enters, then for what comes out"
            return waiting
        self._waiting = torch.empty(size, dtype=dtype, device=device)
        return self._waiting

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Not called by one rank."""
        raise AssertionError("one rank has nothing to sum")


def _is_used_as_stored(parameter: nn.Parameter, policy: MixedPrecisionPolicy) -> bool:
    """Whether one rank computes with the very tensor that it keeps, and adds up gradients in its type."""
    is_computed_with = parameter.dtype == policy.param_dtype
    return is_computed_with and (not parameter.requires_grad or policy.reduce_dtype == policy.param_dtype)


def _offload_policy(mesh: DeviceMesh, is_offloaded: bool) -> OffloadPolicy:
    """Pinned memory is what copies to and from a GPU overlap with; without one there is none to be had."""
    return CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if is_offloaded else OffloadPolicy()


def _used_axes(mesh: DeviceMesh) -> DeviceMesh:
    """One axis where there are no replicas: a second one of size 1 would all-reduce with itself at every layer."""
    return mesh["dp_replicate", "fsdp"] if mesh["dp_replicate"].size() > 1 else mesh["fsdp"]


def set_last_micro_batch(root: nn.Module, is_last: bool) -> None:
    """Say whether the next backward is the last of the step: only then are gradients summed over replicas."""
    if not isinstance(root, FSDPModule):
        return
    # On one rank whole gradients take no more memory than its shards, so they add up where the backward pass puts them.
    root.set_requires_gradient_sync(is_last or dist.get_world_size() > 1)
    root.set_requires_all_reduce(is_last)
    # The root's weights are gathered from the first micro-batch's forward to the last one's backward.
    root.set_reshard_after_backward(is_last, recurse=False)
    root.set_is_last_backward(is_last)


def free_gathered(root: nn.Module) -> None:
    """Go back to sharded weights after a forward that no backward follows.

    The root keeps its gathered weights for the backward pass; until then its parameters are other tensors than the
    ones that the optimizer and the checkpoint know.
    """
    if isinstance(root, FSDPModule):
        root.reshard()


def copy_full(target: Tensor, full: Tensor) -> None:
    """Copy a full tensor, equal on every rank, into a tensor that may be sharded; no communication."""
    full = full.detach().to(target.device)
    with torch.no_grad():
        if isinstance(target, DTensor):
            full = distribute_tensor(full, target.device_mesh, target.placements, src_data_rank=None)
        target.copy_(full)


def group_by_mesh(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors sorted by where they live: one fused operation takes those of one mesh."""
    groups: defaultdict[object, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[(tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else None].append(tensor)
    return list(groups.values())


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor in full, on every rank; a collective when it is sharded."""
    if not isinstance(tensor, DTensor):
        return tensor
    # In the reverse of the order in which it was cut: tp's axis is the innermost and cut first.
    for axis in range(tensor.device_mesh.ndim):
        gathered = [Replicate() if other <= axis else place for other, place in enumerate(tensor.placements)]
        with doing("gathering a weight"):
            tensor = tensor.redistribute(placements=gathered)
    return tensor.to_local()


def local_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """What this rank holds of a tensor that is whole, or sharded along its first dim alone, and its first row."""
    if not isinstance(tensor, DTensor):
        return tensor, 0
    assert all(p.is_replicate() or getattr(p, "dim", None) == 0 for p in tensor.placements), "cut along another dim"
    (chunk,) = tensor.__create_chunk_list__()
    return tensor.to_local(), chunk.offsets[0]
