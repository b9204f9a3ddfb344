"""One optimizer step: micro-batches in, an update and its numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from vlmforge.data.collate import Batch
from vlmforge.errors import Problem, TrainingError
from vlmforge.models.head import LossModel
from vlmforge.parallel.heap import make_room
from vlmforge.parallel.mesh import World, gather_objects
from vlmforge.parallel.reduce import clip_grads, sum_over_ranks
from vlmforge.parallel.shard import set_last_micro_batch
from vlmforge.parallel.watch import doing
from vlmforge.train.optimizer import scale_lr


@dataclass(frozen=True)
class StepResult:
    """What a step measured, over all ranks.

    Attributes:
        loss: mean over the label tokens of the global batch, or over its samples where turns are weighed, before the
            update; None: every sample was left out, so there is no label.
        grad_norm: before clipping.
        num_tokens: real tokens of the global batch.
        num_label_tokens: trained tokens of the global batch.
    """

    loss: float | None
    grad_norm: float
    num_tokens: int
    num_label_tokens: int


def train_step(
    root: LossModel,
    optimizer: Optimizer,
    micro_batches: Sequence[Batch],
    *,
    step: int,
    lr_factor: float,
    max_grad_norm: float | None,
    world: World,
) -> StepResult:
    """Accumulate the gradient of the mean token loss over the global batch, clip it, update.

    The loss is a sum over all micro-batches and ranks, divided once by the global number of label tokens (or of
    samples, where turns are weighed), so it does not depend on how the global batch was cut.

    Raises:
        TrainingError: the loss or the gradient is not finite; nothing was updated.
    """
    names = ("num_tokens", "num_label_tokens", "total_weight")
    counts = [sum(getattr(batch, name) for batch in micro_batches) for name in names]
    num_tokens, num_label_tokens, total_weight = (
        int(count) for count in sum_over_ranks(counts, world.device, world.num_batch_copies)
    )
    # A step whose samples were all left out has no label: its gradient is zero and it has no loss.
    divisor = max(1, total_weight)
    loss_sums = [
        _forward_backward(root, batch.to(world.device), divisor, is_last=index == len(micro_batches) - 1)
        for index, batch in enumerate(micro_batches)
    ]
    with doing("loss"):
        # On a GPU it is here that the process waits for what it has queued.
        local_sums = torch.stack(loss_sums).tolist()
    loss = sum_over_ranks([sum(local_sums)], world.device, world.num_loss_copies)[0] / divisor
    with doing("gradient norm"):
        grad_norm = clip_grads(root.parameters(), max_grad_norm).item()
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise _not_finite(step, loss, grad_norm, micro_batches, local_sums)
    scale_lr(optimizer, lr_factor)
    optimizer.step()
    optimizer.zero_grad()
    return StepResult(loss if total_weight else None, grad_norm, num_tokens, num_label_tokens)


def _forward_backward(root: LossModel, batch: Batch, divisor: int, is_last: bool) -> torch.Tensor:
    set_last_micro_batch(root, is_last)
    loss_sum = run_forward(root, batch)
    if loss_sum.device.type == "cpu":
        make_room()
    with doing("backward"):
        (loss_sum / divisor).backward()
    return loss_sum.detach()


def run_forward(root: LossModel, batch: Batch) -> torch.Tensor:
    """The sum of token losses of one micro-batch that is on the model's device."""
    inputs = (batch.input_ids, batch.position_ids, batch.labels, batch.cu_seq_lens, batch.max_seq_len)
    with doing("forward"):
        return root(*inputs, batch.images, batch.loss_weights)


def _not_finite(
    step: int, loss: float, grad_norm: float, batches: Sequence[Batch], local_sums: Sequence[float]
) -> TrainingError:
    """Name the samples of the micro-batches whose loss is not finite, or of the whole step if only the norm is not."""
    bad = [batch for batch, value in zip(batches, local_sums, strict=True) if not math.isfinite(value)]
    named = [sample_id for ids in gather_objects([i for batch in bad for i in batch.sample_ids]) for sample_id in ids]
    if not named:
        named = [sample_id for ids in gather_objects([i for b in batches for i in b.sample_ids]) for sample_id in ids]
    # Ranks along cp and tp have the same samples.
    named = list(dict.fromkeys(named))
    shown = ", ".join(named[:16]) + (f" and {len(named) - 16} more" if len(named) > 16 else "")
    return TrainingError(
        Problem(
            f"step {step}: loss = {loss}, grad_norm = {grad_norm}; both must be finite",
            f"samples {shown}",
            "look at these samples with `vlmforge preview`, or lower stage.optimizer.lr; the last checkpoint is intact",
        )
    )
