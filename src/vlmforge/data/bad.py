"""What can be wrong with one sample, by kind: what a run that skips bad samples counts and writes down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from vlmforge.errors import DataError, Problem

BadKind = Literal[
    "unreadable_row",
    "missing_column",
    "wrong_type",
    "empty",
    "missing_file",
    "refused_address",
    "undecodable_image",
    "oversized_image",
    "no_label",
]

BAD_KINDS: tuple[BadKind, ...] = get_args(BadKind)


class BadSampleError(DataError):
    """One sample is wrong, and the others need not be: `data.on_bad_sample` decides what happens.

    A file that cannot be read at all is a plain `DataError`, which always stops.
    """

    def __init__(self, problems: Problem | Iterable[Problem], kind: BadKind) -> None:
        """Keep the kind beside the problem."""
        super().__init__(problems)
        self.kind: BadKind = kind
