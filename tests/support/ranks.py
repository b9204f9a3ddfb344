"""Starting a test's own worker module on several ranks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.runs import ROOT, environment


def start_ranks(module: str, world_size: int, folder: Path, *words: str) -> list[subprocess.Popen[str]]:
    """`python -m <module> <folder> <words>` as so many ranks; they meet through a file in the folder."""
    return start_groups(module, (world_size,), folder, *words)


def start_groups(module: str, world_sizes: Sequence[int], folder: Path, *words: str) -> list[subprocess.Popen[str]]:
    """The same as several groups of ranks, each of which finds a place of its own to meet.

    One process imports the module and forks the ranks: importing torch and transformers takes longer than most tests.
    """
    command = [
        sys.executable,
        "-m",
        "tests.support.fork_ranks",
        ",".join(map(str, world_sizes)),
        module,
        str(folder),
        *words,
    ]
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment(), "VLMFORGE_RENDEZVOUS": f"file://{folder}/rendezvous"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    ]


def wait_for_ranks(ranks: Sequence[subprocess.Popen[str]], timeout_seconds: float = 540) -> None:
    """Wait for all; the output of a rank that failed becomes the test's message."""
    try:
        for rank in ranks:
            output, _ = rank.communicate(timeout=timeout_seconds)
            assert rank.returncode == 0, output
    finally:
        for rank in ranks:
            rank.kill()
