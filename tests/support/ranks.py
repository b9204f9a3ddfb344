"""Starting a test's own worker module on several ranks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.runs import ROOT, environment


def start_ranks(module: str, world_size: int, folder: Path, *words: str) -> list[subprocess.Popen[str]]:
    """`python -m <module> <folder> <words>` once for each rank; they meet through a file in the folder."""
    common = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, str(folder), *words],
            cwd=ROOT,
            env={**environment(), **common, "RANK": str(rank), "VLMFORGE_RENDEZVOUS": f"file://{folder}/rendezvous"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]


def wait_for_ranks(ranks: Sequence[subprocess.Popen[str]], timeout_seconds: float = 300) -> None:
    """Wait for all; the output of a rank that failed becomes the test's message."""
    try:
        for rank in ranks:
            output, _ = rank.communicate(timeout=timeout_seconds)
            assert rank.returncode == 0, output
    finally:
        for rank in ranks:
            rank.kill()
