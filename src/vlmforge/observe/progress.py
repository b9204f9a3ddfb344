"""What a person watching a run sees: a bar on a terminal, plain lines anywhere else.

Both show the same numbers. Progress is no record: that is `metrics.py`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

# Recent steps that the remaining time is estimated from: the first ones are slow, and lengths vary.
ETA_STEPS = 20
# Phases that took less than this many seconds get no closing line.
SHORT_PHASE_SECONDS = 1.0
# How often a long phase says where it is, where there is no bar.
TOLD_EVERY_SECONDS = 20.0


class Progress:
    """Shows the steps of a training as they happen.

    Usage::

        with Progress(total_steps=300, every_steps=10) as progress:
            with progress.status("loading weights"):
                ...
            progress.update({"step": 1, "loss": 2.5, "lr": 1e-5})
    """

    def __init__(
        self,
        total_steps: int | None,
        *,
        every_steps: int = 1,
        enabled: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is shown before the block is entered.

        Args:
            total_steps: the last step of the run; None: not known, then there is no remaining time.
            every_steps: plain lines are printed for multiples of this, and for the last step.
            enabled: False on ranks other than 0: nothing is ever printed.
            console: where to print; standard output by default.
            clock: seconds that only grow.
        """
        self._total_steps = total_steps
        self._every_steps = every_steps
        self._is_enabled = enabled
        self._console = console or Console()
        self._clock = clock
        self._step_ends: deque[float] = deque(maxlen=ETA_STEPS + 1)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Show the bar, on a terminal."""
        if self._is_enabled and self._console.is_terminal:
            self._bar = RichProgress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                console=self._console,
            )
            self._task = self._bar.add_task("starting", total=self._total_steps, numbers="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was found, whatever happened."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Show one finished step.

        Args:
            metrics: a line of metrics.jsonl: `step`, and any of `loss` (None: the step had no label), `lr`,
                `grad_norm`, `tokens_per_second`, `peak_memory_gib`, `step_time_seconds`, `validation_loss`.
        """
        if not self._is_enabled:
            return
        step = metrics["step"]
        eta = self._estimate_seconds_left(step, metrics.get("step_time_seconds"))
        if self._bar is not None and self._task is not None:
            numbers = format_numbers(metrics, eta)
            self._bar.update(self._task, completed=step, description="training", numbers=numbers)
        elif step % self._every_steps == 0 or step == self._total_steps:
            self.message(f"step {self._position(step)}  {format_numbers(metrics, eta)}")
        if metrics.get("validation_loss") is not None:
            self.validation(step, metrics["validation_loss"])

    def validation(self, step: int, loss: float) -> None:
        """Print a validation loss (mean over label tokens) on its own line; step 0 is before training."""
        self.message(f"step {self._position(step)}  validation loss {loss:.4f}")

    def message(self, text: str) -> None:
        """Print a line as it is, above the bar."""
        if not self._is_enabled:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            # Not through rich, which would break long lines where there is no terminal.
            try:
                print(text, file=self._console.file, flush=True)
            except BrokenPipeError:
                # Nobody reads any more (`vlmforge train ... | head`); the run goes on, and its files tell the rest.
                self._is_enabled = False

    @contextmanager
    def status(self, text: str) -> Iterator[Callable[[int, int], None]]:
        """Say what takes so long (loading, saving, measuring) while the block runs, and how long it took.

        The block is given a function to call with how much is done, and of how much.
        """
        start = self._clock()
        last_told = start
        before = self._describe(text)
        if self._bar is None:
            self.message(f"{text} ...")

        def tell(done: int, total: int) -> None:
            nonlocal last_told
            self._describe(f"{text} {done}/{total}")
            now = self._clock()
            if self._bar is None and now - last_told >= TOLD_EVERY_SECONDS and done:
                last_told = now
                left = format_duration((now - start) / done * (total - done))
                self.message(f"  {done} of {total}, eta {left}")

        try:
            yield tell
        finally:
            self._describe(before)
        seconds = self._clock() - start
        if seconds >= SHORT_PHASE_SECONDS:
            self.message(f"{text}: {format_duration(seconds)}")

    def _describe(self, text: str) -> str:
        """Change the words beside the bar and return the ones that stood there."""
        if self._bar is None or self._task is None:
            return ""
        before = self._bar.tasks[0].description
        self._bar.update(self._task, description=text)
        return before

    def _position(self, step: int) -> str:
        return str(step) if self._total_steps is None else f"{step}/{self._total_steps}"

    def _estimate_seconds_left(self, step: int, step_time_seconds: float | None) -> float | None:
        """Remaining time from the pace of the last steps, pauses for saving and measuring included."""
        self._step_ends.append(self._clock())
        if self._total_steps is None:
            return None
        num_intervals = len(self._step_ends) - 1
        if num_intervals:
            pace = (self._step_ends[-1] - self._step_ends[0]) / num_intervals
        elif step_time_seconds is not None:
            pace = step_time_seconds
        else:
            return None
        return pace * (self._total_steps - step)


def format_numbers(metrics: Mapping[str, Any], eta_seconds: float | None) -> str:
    """`loss 1.2340  lr 1.00e-05  grad_norm 0.9  812 tok/s  mem 3.2 GiB  eta 4m12s`, of what is there."""
    patterns = {
        "loss": "loss {:.4f}",
        "lr": "lr {:.2e}",
        "grad_norm": "grad_norm {:.3g}",
        "tokens_per_second": "{:.0f} tok/s",
        "peak_memory_gib": "mem {:.1f} GiB",
    }
    # A step whose samples were all left out has a loss that is None, which is not 0.
    parts = ["no labels"] if metrics.get("loss", 0.0) is None else []
    parts += [pattern.format(metrics[name]) for name, pattern in patterns.items() if metrics.get(name) is not None]
    own = [f"{name.removeprefix('lr_')} {value:.2e}" for name, value in metrics.items() if name.startswith("lr_")]
    parts += [f"({', '.join(own)})"] if own else []
    if eta_seconds is not None:
        parts.append(f"eta {format_duration(eta_seconds)}")
    return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """`3.2s`, `42s`, `4m12s` or `5h07m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
