"""Processes that take turns: one computes at a time, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from turns import System, time_in_turns

ROOT = Path(__file__).resolve().parents[2]
# Computes for some seconds a step, says so in a file that all write to, and reports the step.
WORK = """
import os, sys, time
from pathlib import Path
folder, name, seconds, num_steps, code = Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:])
(folder / f"{name}.pid").write_text(str(os.getpid()))
for step in range(int(num_steps)):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    with (folder / "order").open("a") as file:
        file.write(f"{name}{step} ")
    with (folder / f"{name}.jsonl").open("a") as file:
        file.write('{"step": %d}\\n' % step)
print("the last words of", name)
sys.exit(int(code))
"""
# What a terminal that closes, or a system that shuts down, sends a signal to.
BENCHMARK = """
import signal, sys
from pathlib import Path
# As a terminal starts it, whatever started these tests ignores.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.benchmarks.test_turns import work
from turns import time_in_turns
folder = Path(sys.argv[1])
time_in_turns([work(folder, name, 0.2, 100) for name in "ab"], 100)
"""


def work(folder: Path, name: str, seconds: float, num_steps: int, code: int = 0) -> System:
    words = [sys.executable, "-c", WORK, str(folder), name, str(seconds), str(num_steps), str(code)]
    return System(name, words, folder / f"{name}.jsonl", folder / f"{name}.log")


def is_there(folder: Path, name: str) -> bool:
    try:
        os.kill(int((folder / f"{name}.pid").read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.02)


def test_steps_are_made_in_turn(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    systems = [work(tmp_path, "quick", 0.2, 3), work(tmp_path, "slow", 0.5, 3)]
    quick, slow = time_in_turns(systems, 3)
    assert (tmp_path / "order").read_text().split() == ["quick0", "slow0", "quick1", "slow1", "quick2", "slow2"]
    assert (len(quick), len(slow)) == (3, 3)
    assert min(quick) > 0.1, "what it does while it should stand still is not timed"
    assert [line["step"] for line in systems[0].lines()] == [0, 1, 2]
    assert not is_there(tmp_path, "quick")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("num_steps", "code", "told"), [(1, 0, "b ended after 1 steps"), (2, 3, "b failed")])
def test_a_system_that_fails_ends_the_others(num_steps: int, code: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=rf"{told}:\n[^\n]*the last words of b"):
        time_in_turns([work(tmp_path, "a", 0.1, 5), work(tmp_path, "b", 0.1, num_steps, code)], 2)
    assert not is_there(tmp_path, "a")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_benchmark_that_is_told_to_end_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    benchmark = subprocess.Popen(
        [sys.executable, "-c", BENCHMARK, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
    )
    wait_for(tmp_path / "b.jsonl")
    benchmark.send_signal(number)
    assert benchmark.wait(timeout=30) != 0
    left = [name for name in "ab" if is_there(tmp_path, name)]
    for name in left:
        os.kill(int((tmp_path / f"{name}.pid").read_text()), signal.SIGKILL)
    assert not left
