"""What a recipe can still change when memory runs out: overrides that it does not use yet, with their values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from vlmforge.config.derived import BatchSizes
from vlmforge.config.schema import Config

Phase = Literal["load", "step", "score", "save"]


def memory_remedies(config: Config, batch: BatchSizes, phase: Phase, *, has_gpu: bool) -> list[str]:
    """Overrides that need less memory, the one that costs least first, each with what it changes.

    Args:
        config: the recipe that ran out of memory.
        batch: its ranks and rows.
        phase: load, step, score (validation and tasks) or save.
        has_gpu: whether each rank has memory of its own; on CPUs more ranks share the same.
    """
    found: list[str | None] = []
    if phase == "step":
        found += [_smaller_micro_batch(config, batch), _recompute(config), _shorter_rows(config)]
    if phase == "score":
        # Validation is cut as training is.
        found += [_smaller_micro_batch(config, batch) if config.data.validation else None, *_smaller_scoring(config)]
    if phase in ("load", "step"):
        found += [*(_for_gpus(config, batch) if has_gpu else ()), _adapters(config), _half_weights(config)]
    return [remedy for remedy in found if remedy is not None] or ["a machine with more memory, or a smaller model"]


def _divisor_up_to(number: int, limit: int) -> int | None:
    """The largest divisor that is at most `limit`."""
    return next((divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0), None)


def _smaller_micro_batch(config: Config, batch: BatchSizes) -> str | None:
    stage = config.stage
    same = f"(the global batch stays {stage.global_batch_size} rows, the loss too)"
    cap = stage.max_tokens_per_micro_batch
    if cap is not None:
        smaller_cap = max(cap // 2, stage.seq_len)
        return f"stage.max_tokens_per_micro_batch={smaller_cap} {same}" if smaller_cap < cap else None
    smaller = _divisor_up_to(stage.global_batch_size // batch.num_data_ranks, stage.micro_batch_size // 2)
    return f"stage.micro_batch_size={smaller} {same}" if smaller is not None else None


def _recompute(config: Config) -> str | None:
    if config.parallelism.recompute == "full":
        return None
    # Not every layer can be compiled and recomputed.
    also = "parallelism.compile=false " if config.parallelism.compile else ""
    return f"{also}parallelism.recompute=full (slower; changes no number)"


def _shorter_rows(config: Config) -> str | None:
    """Only when nothing else makes a micro-batch smaller: it changes what is trained."""
    stage = config.stage
    shorter, cap = stage.seq_len // 2, stage.max_tokens_per_micro_batch
    is_one_row = stage.micro_batch_size == 1 if cap is None else cap == stage.seq_len
    if not is_one_row or shorter < 8:
        return None
    also = "" if cap is None else f" stage.max_tokens_per_micro_batch={shorter}"
    becomes = {"error": "are then an error", "drop": "are then left out", "truncate": "are then cut"}
    return f"stage.seq_len={shorter}{also} (longer samples {becomes[config.data.on_too_long]}: data.on_too_long)"


def _for_gpus(config: Config, batch: BatchSizes) -> Iterator[str | None]:
    yield _more_ranks(config, batch)
    if not config.parallelism.cpu_offload:
        yield "parallelism.cpu_offload=true (weights and optimizer in CPU memory; slower)"


def _more_ranks(config: Config, batch: BatchSizes) -> str | None:
    stage, num_data_ranks = config.stage, 2 * batch.num_data_ranks
    also = ""
    if stage.max_tokens_per_micro_batch is not None:
        # Cut by tokens, each rank needs a row, and any number of rows goes.
        if stage.global_batch_size < num_data_ranks:
            return None
    elif stage.global_batch_size % num_data_ranks:
        return None
    else:
        micro = _divisor_up_to(stage.global_batch_size // num_data_ranks, stage.micro_batch_size)
        also = "" if micro == stage.micro_batch_size else f" stage.micro_batch_size={micro}"
    return (
        f"parallelism.dp_shard={2 * batch.axes.dp_shard}{also} on {2 * batch.world_size} GPUs (each holds half of the "
        "weights and optimizer)"
    )


def _adapters(config: Config) -> str | None:
    stage = config.stage
    if stage.kind != "sft" or stage.adapter is not None or stage.trainable is not None:
        return None
    return "stage.kind=lora stage.adapter.rank=16 (gradients and optimizer for adapters only; wants a higher lr)"


def _half_weights(config: Config) -> str | None:
    if config.model.dtype != "float32" or config.parallelism.param_dtype != "bfloat16":
        return None
    return (
        "model.dtype=bfloat16 (half the memory of weights and optimizer; at a small lr most weights then stand still)"
    )


def _smaller_scoring(config: Config) -> Iterator[str]:
    size = config.stage.generation.batch_size
    if config.evaluate.tasks and size > 1:
        yield f"stage.generation.batch_size={size // 2}"
    if config.evaluate.tasks:
        yield "'evaluate.tasks=[]' (score later, on another machine)"
