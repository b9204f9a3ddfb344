"""Errors that a user can act on: what is wrong, where it was said, and what to do.

Every such error is a `Problem` of three parts, so that no call site can forget one. Several problems travel in
one `VlmforgeError`; its class decides the exit code. Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

EXIT_OK = 0
EXIT_BUG = 1
EXIT_CONFIG = 2
EXIT_DATA = 3
EXIT_CHECKPOINT = 4
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        what: the dotted path with its value, and the rule it breaks.
        where: `file:line`, `command line: key=value`, or source and sample id.
        fix: a value or a command that works.
    """

    what: str
    where: str
    fix: str

    def __str__(self) -> str:
        """The three lines that a user reads."""
        return f"error: {self.what}\nwhere: {self.where}\nfix:   {self.fix}"


class VlmforgeError(Exception):
    """One or more problems that the user can mend; `exit_code` is what the command returns."""

    exit_code = EXIT_BUG
    # Whether every rank finds the same problem, so that under torchrun it is enough that the first one speaks.
    is_on_every_rank = True

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        """Collect the problems; at least one is required."""
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        assert self.problems, "an error without a problem"
        super().__init__(self.report())

    def report(self) -> str:
        """All problems, a blank line between, then their number."""
        count = len(self.problems)
        blocks = [str(problem) for problem in self.problems]
        return "\n\n".join([*blocks, f"{count} error{'s' if count > 1 else ''}"])


class ConfigError(VlmforgeError):
    """The recipe, an override or an argument is wrong."""

    exit_code = EXIT_CONFIG


class DataError(VlmforgeError):
    """A data file, a column or a sample is wrong."""

    exit_code = EXIT_DATA


class CheckpointError(VlmforgeError):
    """A checkpoint, a run folder or a set of weights is missing, incomplete or of another model."""

    exit_code = EXIT_CHECKPOINT


class TrainingError(VlmforgeError):
    """The training itself went wrong, for example a loss that is not finite."""


class MemoryShortage(TrainingError):
    """Memory ran out on one rank; the others may have enough."""

    is_on_every_rank = False


class FullDisk(TrainingError):
    """One rank could not write; the others may have other disks, or write nothing."""

    is_on_every_rank = False


def nearest(word: str, choices: Iterable[str], limit: int = 3) -> list[str]:
    """The choices most like `word`, best first; empty when nothing is near."""
    return difflib.get_close_matches(word, list(choices), n=limit, cutoff=0.6)


def nearest_folder(path: str) -> Path | None:
    """A folder that may have been meant by one that is not there: its name is alike, or begins so."""
    parent, name = Path(path).parent, Path(path).name
    try:
        names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    except OSError:
        return None
    near = [*nearest(name, names), *(longer for longer in names if name and longer.startswith(name))]
    return parent / near[0] if near else None


def one_of(choices: Sequence[str]) -> str:
    """`a, b or c`, for messages."""
    *head, last = choices
    return f"{', '.join(head)} or {last}" if head else last
