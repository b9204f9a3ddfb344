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
from dataclasses import dataclass
from pathlib import Path

# Of glibc's malloc.h: bytes from which a block is mapped by itself, and how many such blocks there may be; how many
# heaps; free bytes after which a heap shrinks (-1: never).
MMAP_THRESHOLD = -3
MMAP_MAX, DEFAULT_MMAP_MAX = -4, 65536
ARENA_MAX = -8
TRIM_THRESHOLD = -1
# Of Linux's mman.h.
MADV_HUGEPAGE = 14
# Free memory is given back if it is more than this part of what the process holds, and that is nearly the most it held.
WORTHWHILE = 0.15
NEARLY = 0.95


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
        _heap.besides = _resident_bytes() - _bytes_in_use()


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
        _heap.is_huge = True


def make_room() -> None:
    """Give the heap's free pages to the system, if they are much of what the process holds, and that nearly its most.

    A backward pass frees as it goes, but its gradients do not fit into the holes that a forward pass leaves, nor into
    those of two threads that take from one heap in an order that is no two runs' the same. Where less is held than
    before, pages stay: they have to be filled with zeros again when they are next used, 0.1 seconds for 400 MiB.
    """
    if not _is_ours() or _heap.is_huge:
        return
    resident = _resident_bytes()
    _heap.most = max(_heap.most, resident)
    if resident < NEARLY * _heap.most:
        return
    # Malloc counts what is in use by going through all that is free, which takes milliseconds.
    in_use = _bytes_in_use()
    if resident - in_use - _heap.besides > WORTHWHILE * resident:
        ctypes.CDLL(None).malloc_trim(0)
        _heap.besides = _resident_bytes() - in_use


@dataclass
class _Heap:
    """What is known of this process' heap.

    Attributes:
        besides: resident bytes that are not in use by who asked malloc for them, when no free page was resident:
            libraries, kernels, threads.
        most: that were resident, all in all, whenever it was asked to make room.
        is_huge: whether it has huge pages.
    """

    besides: int = 0
    most: int = 0
    is_huge: bool = False


_heap = _Heap()


def _bytes_in_use() -> int:
    """What has been asked for and not been freed."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _MallocInfo
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _MallocInfo(ctypes.Structure):
    """Glibc's mallinfo2: in `uordblks` bytes of the heap in use, in `hblkhd` those of blocks mapped by themselves."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


@functools.cache
def _is_ours() -> bool:
    """Whether malloc is a glibc's that tells its sizes (2.33), and the user has not set it up."""
    is_set_up = any(name.startswith("MALLOC_") for name in os.environ)
    return platform.libc_ver()[0] == "glibc" and hasattr(ctypes.CDLL(None), "mallinfo2") and not is_set_up
