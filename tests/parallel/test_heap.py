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


# A quarter of a MiB, 200 MiB twice and 100, in blocks that come from the heap, each time given back below one that
# stays: how many MiB are resident then, and when room has been made.
PROGRAM = """
import json, os, sys
from pathlib import Path
from vlmforge.parallel.heap import keep_free_memory, make_room, reserve_huge_pages

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

keep_free_memory()
if "huge" in sys.argv:
    reserve_huge_pages()
before, held, last = resident(), [], []
for num_blocks in (1, 800, 800, 400):
    blocks = [bytearray(2**18) for _ in range(num_blocks)]
    for block in blocks:
        block[::4096] = bytes(64)
    last.append(bytearray(2**20))
    blocks.clear()
    held.append(resident() - before)
    make_room()
    held.append(resident() - before)
print(json.dumps(held))
"""


@pytest.mark.skipif(not _is_ours(), reason="the heap of a glibc that tells its sizes, and that nobody has set up")
def test_what_is_free_goes_back_if_it_is_much_and_so_is_what_is_held():
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    few, still, many, after, again, after_again, half, still_half = json.loads(output)
    assert still == pytest.approx(few, abs=0.5), "a little stays for the next tensors"
    assert min(many, again) > 195, "what is freed stays until room is made"
    assert max(after, after_again) < 20
    assert min(half, still_half) > 95, "the process has held twice as much before"


@pytest.mark.skipif(not _is_ours(), reason="the heap of a glibc that tells its sizes, and that nobody has set up")
def test_what_is_reserved_in_huge_pages_stays():
    output = subprocess.run([sys.executable, "-c", PROGRAM, "huge"], capture_output=True, text=True, check=True).stdout
    assert min(json.loads(output)[2:]) > 195


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
