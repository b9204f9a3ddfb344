"""Who is told that a run stops."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tests.support.runs import start

from vlmforge.train.interrupt import watch_signals


def test_a_data_worker_that_the_terminal_signals_too_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with watch_signals() as wish:
        worker = os.fork()
        if worker == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0)
        assert os.waitpid(worker, 0)[1] == 0
        assert capfd.readouterr().err == ""
        os.kill(os.getpid(), signal.SIGINT)
        assert wish.is_set
    assert capfd.readouterr().err.count("stopping after this step") == 1


def takes_sigterm(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def has_ranks(pid: int) -> bool:
    """Whether a process has started others."""
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.mark.parametrize(("ranks", "is_time"), [(1, takes_sigterm), (2, has_ranks)])
def test_sigterm_before_anything_is_said_is_an_interrupt_too(here, ranks, is_time) -> None:
    running = start(here, "train", "recipe=short.yaml", f"parallelism.dp_shard={ranks}")
    deadline = time.monotonic() + 60
    while not is_time(running.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    output, errors = running.communicate(timeout=60)
    assert (running.returncode, output, errors) == (130, "", "interrupted\n")
    assert not (here / "runs").exists()


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_while_it_validates_saves_at_once(here) -> None:
    row = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]}
    (here / "held_out.jsonl").write_text(5_000 * (json.dumps(row) + "\n"))
    words = ("data.validation=[{path: held_out.jsonl, format: messages}]", "evaluate.before=true")
    running = start(here, "train", "recipe=short.yaml", "run.name=stopped", *words)
    assert running.stdout is not None
    assert any("validating ..." in line for line in running.stdout)
    running.send_signal(signal.SIGTERM)
    output, errors = running.communicate(timeout=200)
    assert (running.returncode, errors) == (130, "\nstopping after this step, then saving\n")
    assert "interrupted after step 0 of 6" in output
    # What was not measured to its end is measured when the run goes on.
    assert not (here / "runs/stopped/scores.json").exists()
