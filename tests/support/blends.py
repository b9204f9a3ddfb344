"""A blend of three sources, interrupted at a step and gone on with on other meshes: what must not change."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.runs import column, metrics, sample_ids, start

EXACT = ("step", "loss", "grad_norm", "lr", "num_tokens", "num_label_tokens")


def run(folder: Path, *words: str) -> None:
    """The command to its end, with its message if it fails."""
    running = start(folder, "train", *words)
    try:
        _, errors = running.communicate(timeout=240)
    finally:
        running.kill()
    assert running.returncode == 0, errors


def run_until_killed(folder: Path, name: str, num_steps: int, *words: str) -> int:
    """Start a run and kill it without a word once it has made some steps; returns those it has made."""
    running = start(folder, "train", f"run.name={name}", *words)
    try:
        _wait_for_steps(folder / "runs" / name, num_steps, running)
    finally:
        for rank in _children(running.pid):
            os.kill(rank, signal.SIGKILL)
        running.kill()
        running.communicate()
    return len(metrics(folder / "runs" / name))


def _wait_for_steps(run: Path, count: int, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and running.poll() is None:
        if (
            (run / "metrics.jsonl").exists()
            and len(metrics(run)) >= count
            and any((run / "checkpoints").glob("step-*"))
        ):
            return
        time.sleep(0.02)
    raise AssertionError(f"{run} has not made {count} steps: {running.communicate()}")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def check_same_batches(folder: Path, names: Sequence[str], *, is_bit_equal: bool) -> None:
    """Every run has the global batches of the first, and its losses."""
    first = folder / "runs" / names[0]
    for name in names[1:]:
        other = folder / "runs" / name
        assert sample_ids(other) == sample_ids(first)
        ours, theirs = column(other, *EXACT), column(first, *EXACT)
        # On another mesh sums are made in another order, and steps carry that on.
        assert ours == theirs if is_bit_equal else ours == [pytest.approx(line, rel=1e-3) for line in theirs]
