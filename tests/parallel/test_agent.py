"""What the agents of a job say and return: ranks that stop, in time or late, refuse, are killed; machines that lack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parallel.worker_agent import END_SECONDS
from tests.support.runs import ROOT, environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agents")
    command = [sys.executable, "-m", "tests.parallel.worker_agent", str(folder)]
    variables = {**environment(), "TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    subprocess.run(command, cwd=ROOT, env=variables, check=True, timeout=END_SECONDS + 30)
    return folder


def told(folder: Path, scenario: str) -> str:
    """What all agents, and their ranks, have printed together."""
    return "".join(path.read_text() for path in sorted(folder.glob(f"{scenario}-*.txt")))


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("stop", [130, 130]),
        ("late", [1]),
        ("elsewhere", [130, 130]),
        ("refuse", [3]),
        ("kill", [1]),
        ("missing", [1, 1]),
        ("unreachable", [1]),
    ],
)
def test_an_agent_ends_with_the_code_of_what_happened(scenario: str, expected: list[int], folder: Path) -> None:
    text = told(folder, scenario)
    assert json.loads((folder / "codes.json").read_text())[scenario] == expected, text
    assert "Traceback" not in text


def test_ranks_that_are_told_to_stop_have_the_time_to_save(folder: Path) -> None:
    assert sorted((folder / "stop.saved").read_text()) == ["0", "1"]
    assert "error:" not in told(folder, "stop")


def test_ranks_that_take_longer_are_killed_and_told(folder: Path) -> None:
    assert not (folder / "late.saved").exists()
    text = told(folder, "late")
    assert "local rank 0 had not finished the step and saved 1 s after being told to stop (launch.stop_seconds)" in text
    assert "fix:   launch.stop_seconds=2" in text


@pytest.mark.parametrize(("scenario", "num_ranks"), [("elsewhere", 2), ("refuse", 1)])
def test_what_is_over_is_not_started_again(scenario: str, num_ranks: int, folder: Path) -> None:
    assert len((folder / f"{scenario}.started").read_text()) == num_ranks


def test_an_error_of_a_rank_is_told_once(folder: Path) -> None:
    assert told(folder, "refuse").count("error:") == 1
    text = told(folder, "kill")
    assert text.count("error:") == 1
    assert "rank 0 was ended by SIGKILL" in text


def test_machines_that_do_not_come_are_named_before_a_rank_starts(folder: Path) -> None:
    text = told(folder, "missing")
    assert text.count("1 of 3 machines, with 4 of 12 ranks, did not come within 3 s (launch.preflight_seconds)") == 2
    # The first to come says which, once.
    assert text.count("missing: gone1, gone2") == 1
    assert "fix:   see why they did not start" in text
    assert not (folder / "missing.started").exists()


def test_a_first_machine_that_does_not_answer_is_named(folder: Path) -> None:
    assert "error: 192.0.2.1:" in told(folder, "unreachable")
    assert "where the machines meet, could not be reached in 3 s (launch.preflight_seconds)" in told(
        folder, "unreachable"
    )
