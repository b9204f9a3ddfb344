"""What is told when ranks do not come, do not go on or end: once, with who is waited for, and within the time-out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parallel.worker_watch import END_SECONDS
from tests.support.runs import ROOT, environment
from vlmforge.parallel.whereabouts import Status, name_ranks, report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch")
    command = [sys.executable, "-m", "tests.parallel.worker_watch", str(folder)]
    subprocess.run(
        command, cwd=ROOT, env={**environment(), "TORCH_CPP_LOG_LEVEL": "ERROR"}, check=True, timeout=END_SECONDS + 30
    )
    return folder


def told(folder: Path, scenario: str) -> str:
    """What all ranks have printed together."""
    return "".join(path.read_text() for path in sorted(folder.glob(f"{scenario}-*.txt")))


def codes(folder: Path, scenario: str) -> list[int]:
    return json.loads((folder / "codes.json").read_text())[scenario]


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [("sleep", [1, 1]), ("raise", [1, 1]), ("refuse", [3, 3]), ("kill", [1, -9]), ("srun", [0, 0]), ("absent", [1])],
)
def test_every_rank_ends_with_the_code_of_what_happened(scenario: str, expected: list[int], folder: Path) -> None:
    assert codes(folder, scenario) == expected, told(folder, scenario)


def test_a_rank_that_does_not_come_on_is_named_with_its_stack(folder: Path) -> None:
    text = told(folder, "sleep")
    assert text.count("error:") == 1
    assert "rank 0 has waited for 2 s (launch.timeout_seconds) in step 2, sum over ranks" in text
    assert "rank 1 did not come to where the others wait" in text
    assert "rank 1: step 2, data, busy for" in text
    # The stack of the rank that is late ends where it is.
    late = text[text.index("rank 1 on") :]
    assert "worker_watch.py" in late
    assert " sleep\n" in late


def test_an_error_of_one_rank_is_told_once(folder: Path) -> None:
    text = told(folder, "raise")
    assert text.count("ValueError: a bug in a model") == 1
    assert "error:" not in text
    # Under torchrun the first rank speaks for all, also of what only another one has met.
    text = told(folder, "refuse")
    assert text.count("error: a sample that cannot be read") == 1
    assert "Traceback" not in text


@pytest.mark.parametrize(("scenario", "victim"), [("kill", 1), ("kill the first", 0)])
def test_a_rank_that_is_killed_is_named_by_the_others(scenario: str, victim: int, folder: Path) -> None:
    text = told(folder, scenario)
    assert text.count("error:") == 1, text
    assert f"rank {1 - victim} lost its connection to another rank in step 2, sum over ranks" in text
    assert f"rank {victim} gave no answer" in text
    assert "Traceback" not in text


def test_a_rank_that_never_comes_is_named_before_anything_is_loaded(folder: Path) -> None:
    text = told(folder, "absent")
    assert "error: rank 1 of 2 did not come within 4 s (launch.preflight_seconds)" in text
    assert "here: rank 0 on " in text


def test_a_report_names_many_ranks_by_their_machines() -> None:
    stack = ("vlmforge/train/step.py:83 run_forward", "torch/distributed/x.py:1 wait")
    statuses = {rank: Status(rank, "step 9, backward", 30.5, True, stack) for rank in range(16) if rank not in (3, 9)}
    statuses[3] = Status(3, "step 9, data", 31.0, False, ("vlmforge/data/loader.py:7 __next__",))
    text = report("rank 0 has waited", statuses, ["a"] * 8 + ["b"] * 8, "look")
    assert "ranks 0-2, 4-7 on a, ranks 8, 10-15 on b: step 9, backward, waiting for 30.5 s\n    vlmforge/train" in text
    assert "rank 9 on b: no answer" in text
    assert "where: ranks 0-2, 4-8, 10-15: step 9, backward, waiting for 30.5 s; rank 3: step 9, data, busy" in text
    assert text.count("vlmforge/train/step.py:83") == 1
    assert name_ranks([4]) == "rank 4"
