"""Who is told that a run stops."""

import os
import signal

import pytest

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
