"""What a process holds of the memory that it has given back, and in pages of which size, by the system's own count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlmforge.parallel.heap import _is_ours


def may_ask_for_huge_pages() -> bool:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return _is_ours() and setting.is_file() and "[never]" not in setting.read_text()


# A hundred MiB in blocks that come from the heap, given back below one that stays; how many MiB then remain resident.
PROGRAM = """
import json, os
from pathlib import Path
from vlmforge.parallel.heap import keep_free_memory, make_room

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

keep_free_memory()
before = resident()
blocks = [bytearray(2**20) for _ in range(100)]
for block in blocks:
    block[::4096] = bytes(256)
last = bytearray(2**20)
blocks.clear()
held = [resident() - before]
for needed in (2**20, 2**30):
    make_room(needed)
    held.append(resident() - before)
print(json.dumps(held))
"""


@pytest.mark.skipif(not _is_ours(), reason="the heap of a glibc that tells its sizes, and that nobody has set up")
def test_memory_goes_back_only_if_gradients_need_room():
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    kept, still, after = json.loads(output)
    assert kept > 95, "what is freed stays for the next tensors"
    assert still > 95, "gradients of a megabyte need no room"
    assert after < 20, "gradients of a gigabyte do"


# What of 64 MiB in blocks from the heap is in huge pages.
HUGE = """
from pathlib import Path
from vlmforge.parallel.heap import keep_free_memory, reserve_huge_pages

def huge():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("AnonHugePages"))) / 1024

keep_free_memory()
reserve_huge_pages()
before = huge()
blocks = [bytearray(2**20) for _ in range(64)]
for block in blocks:
    block[::4096] = bytes(256)
print(huge() - before)
"""


@pytest.mark.skipif(not may_ask_for_huge_pages(), reason="the system gives no huge pages to who asks for them")
def test_the_heap_grows_in_huge_pages():
    output = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True).stdout
    assert float(output) > 48
