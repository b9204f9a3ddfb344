"""The heap of a process that trains on a CPU: what tensors give back is kept for the next ones, and given back in time.

CUDA has a caching allocator of torch's. On a CPU torch asks malloc for every tensor, and by default glibc maps each of
them anew from the system, which fills it with zeros page by page as it is first touched.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import resource
from pathlib import Path

# Of glibc's malloc.h: bytes from which a block is mapped by itself, and how many such blocks there may be; how many
# heaps; free bytes after which a heap shrinks (-1: never).
MMAP_THRESHOLD = -3
MMAP_MAX, DEFAULT_MMAP_MAX = -4, 65536
ARENA_MAX = -8
TRIM_THRESHOLD = -1
# Of Linux's mman.h.
MADV_HUGEPAGE = 14
# Memory is given back if it is more than this part of what the process holds.
WORTHWHILE = 0.1


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


def reserve_huge_pages() -> None:
    """Let the heap grow to half of the machine's memory in pages of 2 MB, of which none is taken before it is used.

    Looking up a page and handing it out costs as much for 4 KB. Not for what `make_room` gives back at every step: it
    would be handed out again as whole huge pages, which made full training hold a tenth more. Where the system has no
    huge pages, or a limit on addresses, everything stays as it is.
    """
    if not _is_ours() or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    libc, page = ctypes.CDLL(None), os.sysconf("SC_PAGE_SIZE")
    size = os.sysconf("SC_PHYS_PAGES") // 2 * page
    libc.malloc.restype = ctypes.c_void_p
    # From the heap's end: by itself it would be mapped elsewhere, and unmapped with its mark when it is freed.
    libc.mallopt(MMAP_MAX, 0)
    block = libc.malloc(ctypes.c_size_t(size))
    libc.mallopt(MMAP_MAX, DEFAULT_MMAP_MAX)
    if block is not None:
        start = -(-block // page) * page
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size - page), MADV_HUGEPAGE)
        libc.free(ctypes.c_void_p(block))


def make_room(needed: int) -> None:
    """Give the heap's free pages to the system before a backward pass, if its gradients would add to what they hold.

    A backward pass frees as it goes, but its gradients do not fit into the holes that a forward pass leaves. Pages that
    are given back have to be filled with zeros again when they are next used, which costs a twentieth of a step.

    Args:
        needed: bytes of the gradients that it makes.
    """
    if not _is_ours():
        return
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _MallocInfo
    free = libc.mallinfo2().fordblks
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if min(free, needed) > WORTHWHILE * resident:
        libc.malloc_trim(0)


class _MallocInfo(ctypes.Structure):
    """Glibc's mallinfo2: in `fordblks`, bytes of the heap that are free, those too whose pages were given back."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


@functools.cache
def _is_ours() -> bool:
    """Whether malloc is a glibc's that tells its sizes (2.33), and the user has not set it up."""
    is_set_up = any(name.startswith("MALLOC_") for name in os.environ)
    return platform.libc_ver()[0] == "glibc" and hasattr(ctypes.CDLL(None), "mallinfo2") and not is_set_up
