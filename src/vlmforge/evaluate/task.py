"""What a task is: how one answer is scored against its reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One way to score held-out samples.

    Attributes:
        name: in `evaluate.tasks` and in scores.json.
        metric: name of the number.
        is_right: from the model's answer and the reference to right or wrong.
    """

    name: str
    metric: str
    is_right: Callable[[str, str], bool]
