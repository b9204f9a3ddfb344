"""The heap of a process that trains on a CPU: what tensors give back is kept for the next ones, and given back in time.

CUDA has a caching allocator of torch's. On a CPU torch asks malloc for every tensor, and by default glibc maps each of
them anew from the system, which fills it with zeros page by page as it is first touched.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

# Of glibc's malloc.h: bytes from which a block is mapped by itself; free ones after which the heap shrinks (-1: never).
MMAP_THRESHOLD = -3
ARENA_MAX = -8
TRIM_THRESHOLD = -1


def keep_free_memory() -> None:
    """Let glibc keep what tensors give back, for the next ones, and oneDNN keep fewer kernels.

    The tensors of one step are as large as those of the last. Only the largest, which few others would fit into the
    place of, still go back. All threads take from one heap: what one gives back is another's next tensor.

    oneDNN keeps a kernel of up to a megabyte for each shape of a product, 1,024 of them by default, and every step
    brings new numbers of tokens. What a user sets in the environment stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    if _is_ours():
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, 12 * 2**20)
        mallopt(ARENA_MAX, 1)
        mallopt(TRIM_THRESHOLD, -1)


def give_back_free_memory() -> None:
    """Give the heap's free pages to the system.

    Between a forward and its backward pass most of them are free and the fewest are needed soon: a backward pass frees
    as it goes, and its gradients do not fit into the holes that a forward pass leaves.
    """
    if _is_ours():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _is_ours() -> bool:
    """Whether malloc is glibc's, and the user has not set it up."""
    return platform.libc_ver()[0] == "glibc" and not any(name.startswith("MALLOC_") for name in os.environ)
