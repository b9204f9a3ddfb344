"""Memory that ran out, told as what was being done, how much was held, and what the recipe can still change."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlmforge.config.derived import derive_batch
from vlmforge.config.remedies import Phase, memory_remedies
from vlmforge.config.schema import Config
from vlmforge.errors import MemoryShortage, Problem
from vlmforge.observe.memory import GIB_BYTES, memory_in_use
from vlmforge.parallel.mesh import World

# How torch says so without a class of its own: its CPU allocator, and libraries that allocate by themselves.
SIGNS = ("DefaultCPUAllocator: can't allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
ASKED_FOR = re.compile(r"[Tt]ried to allocate ([\d.]+) ?(bytes|[KMG]iB)")


@contextmanager
def tell_shortage(
    config: Config, world: World, phase: Phase, doing: str, num_tokens: int | None = None
) -> Iterator[None]:
    """Turn an allocation that fails inside into an error with a remedy.

    Args:
        config: the recipe.
        world: this rank's place.
        phase: what kind of work is done.
        doing: the same in words, for example `step 12`.
        num_tokens: of the largest micro-batch, if there is one.

    Raises:
        MemoryShortage: memory ran out.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, OSError) as error:
        if not is_shortage(error):
            raise
        raise MemoryShortage(_explain(config, world, phase, doing, num_tokens, error)) from error


def is_shortage(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return any(sign in str(error) for sign in SIGNS)


def _explain(
    config: Config, world: World, phase: Phase, doing: str, num_tokens: int | None, error: BaseException
) -> Problem:
    batch = derive_batch(config, world.world_size)
    rows = f", in micro-batches of up to {num_tokens} tokens" if num_tokens is not None else ""
    remedies = memory_remedies(config, batch, phase, has_gpu=world.device.type == "cuda")
    return Problem(
        f"out of memory in {doing}{rows}: {_asked_for(error)}{memory_in_use(world.device)}",
        f"rank {world.rank} of {world.world_size}, {world.device}",
        "; or ".join(remedies) + ("; what was saved is intact" if phase != "load" else ""),
    )


def _asked_for(error: BaseException) -> str:
    found = ASKED_FOR.search(str(error))
    if found is None:
        return ""
    number, unit = found.groups()
    if unit == "bytes":
        number, unit = f"{float(number) / GIB_BYTES:.2f}", "GiB"
    return f"{number} {unit} more was asked for, "
