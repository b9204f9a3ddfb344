"""Validation loss: the mean token loss over all validation samples, by the head that trains."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from vlmforge.data.collate import Batch
from vlmforge.models.head import LossModel
from vlmforge.parallel.mesh import World
from vlmforge.parallel.reduce import sum_over_ranks
from vlmforge.parallel.shard import free_gathered
from vlmforge.train.step import run_forward


def validation_loss(root: LossModel, batches: Iterable[Batch], world: World) -> float | None:
    """Mean over the label tokens of all batches of all ranks, weighed as in training; None where there is none.

    Args:
        root: left in training mode.
        batches: this rank's; every rank must give the same number, because each forward is a collective.
        world: this rank's place.
    """
    loss_sum, total_weight = 0.0, 0
    root.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                loss_sum += run_forward(root, batch.to(world.device)).item()
                total_weight += batch.total_weight
    finally:
        # Whoever gives up in between saves these weights.
        free_gathered(root)
        root.train()
    total = sum_over_ranks([loss_sum], world.device, world.num_loss_copies)[0]
    count = sum_over_ranks([total_weight], world.device, world.num_batch_copies)[0]
    return total / count if count else None
