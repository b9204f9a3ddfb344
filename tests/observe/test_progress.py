import io

import pytest
from rich.console import Console

from vlmforge.observe.progress import Progress, format_duration

STEP = {
    "loss": 1.234,
    "lr": 1e-5,
    "grad_norm": 0.9,
    "tokens_per_second": 812.4,
    "peak_memory_gib": 3.21,
    "step_time_seconds": 2.0,
}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def plain():
    return Console(file=io.StringIO(), width=40)


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=160, legacy_windows=False)


def lines(console):
    return console.file.getvalue().splitlines()


def test_a_plain_line_has_every_number_and_is_not_wrapped(plain, clock):
    with Progress(300, console=plain, clock=clock) as progress:
        progress.update({"step": 174, **STEP})
    expected = "loss 1.2340  lr 1.00e-05  grad_norm 0.9  812 tok/s  mem 3.2 GiB  eta 4m12s"
    assert lines(plain) == [f"step 174/300  {expected}"]


def test_plain_lines_come_every_so_many_steps_and_for_the_last(plain, clock):
    with Progress(7, every_steps=3, console=plain, clock=clock) as progress:
        for step in range(1, 8):
            progress.update({"step": step, "loss": 1.0})
    assert [line.split()[1] for line in lines(plain)] == ["3/7", "6/7", "7/7"]


def test_a_validation_loss_is_shown_between_the_lines(plain, clock):
    with Progress(7, every_steps=5, console=plain, clock=clock) as progress:
        progress.validation(0, 2.5)
        progress.update({"step": 1, "loss": 1.0, "validation_loss": None})
        progress.update({"step": 2, "loss": 1.0, "validation_loss": 1.5})
    assert lines(plain) == ["step 0/7  validation loss 2.5000", "step 2/7  validation loss 1.5000"]


def test_the_remaining_time_follows_the_recent_pace(plain, clock):
    with Progress(1000, console=plain, clock=clock) as progress:
        for step in range(1, 101):
            clock.now += 100.0 if step < 50 else 2.0
            progress.update({"step": step})
    assert lines(plain)[-1] == "step 100/1000  eta 30m00s"


def test_a_resumed_run_counts_only_the_steps_it_makes(plain, clock):
    with Progress(100, console=plain, clock=clock) as progress:
        for step in (91, 92):
            clock.now += 3.0
            progress.update({"step": step})
    assert lines(plain)[-1].endswith("eta 24s")


def test_without_a_known_end_there_is_no_remaining_time(plain, clock):
    with Progress(None, console=plain, clock=clock) as progress:
        progress.update({"step": 3, "loss": 2.0, "step_time_seconds": 1.0})
    assert lines(plain) == ["step 3  loss 2.0000"]


def test_messages_are_printed_as_they_are(plain, terminal):
    for console in (plain, terminal):
        with Progress(3, console=console) as progress:
            progress.message("saved [bold] runs/a :smile:")
        assert "saved [bold] runs/a :smile:" in console.file.getvalue()


def test_a_slow_phase_says_what_it_does_and_how_long_it_took(plain, clock):
    with Progress(3, console=plain, clock=clock) as progress:
        with progress.status("loading weights"):
            assert lines(plain) == ["loading weights ..."]
            clock.now += 12.0
        with progress.status("saving"):
            pass
    assert lines(plain) == ["loading weights ...", "loading weights: 12s", "saving ..."]


def test_a_slow_phase_that_fails_is_not_called_done(plain, clock):
    progress = Progress(3, console=plain, clock=clock)

    def fail():
        with progress, progress.status("loading weights"):
            clock.now += 12.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert lines(plain) == ["loading weights ..."]


def test_a_terminal_gets_a_bar_with_the_same_numbers(terminal, clock):
    with Progress(300, every_steps=50, console=terminal, clock=clock) as progress:
        with progress.status("loading weights"):
            clock.now += 5.0
        progress.update({"step": 12, "validation_loss": 1.5, **STEP})
    text = terminal.file.getvalue()
    assert "12/300" in text
    assert "loss 1.2340  lr 1.00e-05" in text
    assert "step 12/300  validation loss 1.5000" in text
    assert "loading weights: 5.0s" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again


def test_other_ranks_print_nothing(plain, terminal):
    for console in (plain, terminal):
        with Progress(3, enabled=False, console=console) as progress:
            progress.update({"step": 1, **STEP, "validation_loss": 2.0})
            progress.message("text")
            with progress.status("loading"):
                pass
        assert console.file.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (9.94, "9.9s"),
        (42.4, "42s"),
        (59.6, "1m00s"),
        (252, "4m12s"),
        (3599.7, "1h00m"),
        (18432, "5h07m"),
    ],
)
def test_durations_are_short(seconds, text):
    assert format_duration(seconds) == text


def test_a_run_goes_on_when_nobody_reads_its_lines_any_more():
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with Progress(10, console=Console(file=Closed(), width=40)) as progress:
        progress.update({**STEP, "step": 1})
        progress.update({**STEP, "step": 2})
