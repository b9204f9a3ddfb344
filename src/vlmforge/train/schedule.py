"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from vlmforge.config.schema import ScheduleConfig

# The share of the steps after warm-up during which `wsd` holds the peak.
HOLD_RATIO = 0.9


def lr_factor(schedule: ScheduleConfig, step: int, total_steps: int, global_batch_size: int) -> float:
    """What the peak learning rate is multiplied by in one step.

    Step k uses the factor of k - 1 updates done, so with warm-up the first update has lr 0, as in transformers and
    verl. Counts in samples follow Megatron: after k - 1 updates, (k - 1) x global_batch_size samples are seen.

    Args:
        schedule: shape, warm-up, decay.
        step: optimizer step, from 1.
        total_steps: steps of the whole run.
        global_batch_size: rows of a step.
    """
    done = step - 1
    warmup = warmup_steps(schedule, total_steps, global_batch_size)
    if done < warmup:
        return done / warmup
    end = _decay_end(schedule, total_steps, global_batch_size)
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "wsd":
        warmup += HOLD_RATIO * (end - warmup)
    # The decay may end before the run does; from then on the progress is 1.
    progress = min(1.0, max(0.0, (done - warmup) / (end - warmup))) if end > warmup else 1.0
    shape = 1.0 - progress if schedule.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return schedule.min_lr_ratio + (1.0 - schedule.min_lr_ratio) * shape


def warmup_steps(schedule: ScheduleConfig, total_steps: int, global_batch_size: int) -> float:
    """Length of the warm-up in steps; a fraction when it is counted in samples."""
    if schedule.warmup_samples is not None:
        return schedule.warmup_samples / global_batch_size
    if schedule.warmup_ratio is not None:
        return int(total_steps * schedule.warmup_ratio)
    return schedule.warmup_steps or 0


def _decay_end(schedule: ScheduleConfig, total_steps: int, global_batch_size: int) -> float:
    if schedule.decay_samples is not None:
        return schedule.decay_samples / global_batch_size
    return schedule.decay_steps or total_steps
