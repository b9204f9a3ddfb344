"""Mechanisms that can be taken out of vlmforge, to show that the comparison notices each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from vlmforge.models.adapters import is_adapter
from vlmforge.parallel.context import SequenceSplit, _Exchange
from vlmforge.parallel.mesh import World
from vlmforge.parallel.shard import Apart
from vlmforge.train import step as step_module


def mutate(name: str) -> Any:
    """Take one mechanism out of vlmforge."""
    return MUTATIONS[name]() if name else contextlib.nullcontext()


def _shard_without_adapters(module: torch.nn.Module, **options: Any) -> Any:
    from torch.distributed.fsdp import fully_shard

    ignored = {parameter for name, parameter in module.named_parameters() if is_adapter(name)}
    return fully_shard(module, **(options | {"ignored_params": ignored}))


def _with_cache() -> Any:
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def leave_cache_on(self: Any, *args: Any, use_cache: bool = True, **options: Any) -> Any:
        return forward(self, *args, **options)

    return mock.patch.object(LlamaModel, "forward", leave_cache_on)


def _kv_copies_without_sum(self: SequenceSplit, heads: torch.Tensor) -> torch.Tensor:
    """The first copy of each key-value head has a gradient, the others none."""
    copies = self.size // heads.shape[1]
    return torch.stack([heads, *[heads.detach()] * (copies - 1)], dim=2).flatten(1, 2)


def _without_copies(modules: Any, mesh: Any, num_copies: int = 1) -> Apart:
    return Apart(modules, mesh)


MUTATIONS: dict[str, Callable[[], Any]] = {
    # Each rank divides by its own number of label tokens.
    "no-label-count-reduction": lambda: mock.patch.object(step_module, "sum_over_ranks", lambda values, *_: [*values]),
    "no-adapter-reduction": lambda: mock.patch("vlmforge.parallel.shard.fully_shard", _shard_without_adapters),
    "use-cache": _with_cache,
    "no-head-norm-reduction": lambda: mock.patch("vlmforge.parallel.tensor._by_head", lambda module, _: module.forward),
    "no-low-rank-reduction": lambda: mock.patch("vlmforge.models.adapters._use_in_parts"),
    # Each rank of tp has the whole gradient of a tower, and their sum is taken for it.
    "no-division-by-copies": lambda: mock.patch("vlmforge.train.session.Apart", _without_copies),
    "labels-counted-twice": lambda: mock.patch.object(World, "num_batch_copies", 1),
    # A rank keeps the gradients that belong to other ranks' tokens.
    "no-gradient-exchange": lambda: mock.patch.object(_Exchange, "backward", lambda ctx, grad: (grad, None)),
    "no-kv-gradient-reduction": lambda: mock.patch.object(SequenceSplit, "share_heads", _kv_copies_without_sum),
}
