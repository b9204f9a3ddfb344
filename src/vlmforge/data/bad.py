"""What can be wrong with one sample, by kind: what a run that skips bad samples counts and writes down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
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
    "unrenderable",
    "no_label",
    "too_long",
]

# What messages about single samples offer.
_SKIPPING = re.compile(r", or [^,]*data\.on_bad_sample=skip$")

BAD_KINDS: tuple[BadKind, ...] = get_args(BadKind)


def format_sample_id(source: str, index: int) -> str:
    """The one spelling of a sample's name, `source#index`."""
    return f"{source}#{index}"


def tell_json_error(error: Exception) -> str:
    """What is wrong with some JSON, and at which of its characters; its own count of lines is none of a file's."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    # Some of its messages end with the "at" that its own place would follow.
    return f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"


def forbid_skipping(fix: str) -> str:
    """What to do with a sample that cannot be left out."""
    return _SKIPPING.sub("", fix)


class BadSampleError(DataError):
    """One sample is wrong, and the others need not be: `data.on_bad_sample` decides what happens.

    A file that cannot be read at all is a plain `DataError`, which always stops.
    """

    def __init__(self, problems: Problem | Iterable[Problem], kind: BadKind) -> None:
        """Keep the kind beside the problem."""
        super().__init__(problems)
        self.kind: BadKind = kind


@dataclass(frozen=True)
class LeftOut:
    """One sample that is not trained on.

    Attributes:
        source: name of its source.
        index: its row there.
        kind: what is wrong with it; `too_long` is dropped, everything else is bad.
        where: its file and place there.
        reason: the rule that it breaks.
    """

    source: str
    index: int
    kind: BadKind
    where: str
    reason: str

    @property
    def is_bad(self) -> bool:
        """Whether it counts against `data.max_bad_ratio`."""
        return self.kind != "too_long"

    def as_dict(self) -> dict[str, str]:
        """For `bad_samples.jsonl`."""
        sample_id = format_sample_id(self.source, self.index)
        return {"sample": sample_id, "kind": self.kind, "where": self.where, "reason": self.reason}

    @classmethod
    def because_of(cls, error: BadSampleError, source: str, index: int) -> LeftOut:
        """A sample that an error is about."""
        problem = error.problems[0]
        return cls(source, index, error.kind, problem.where, problem.what)
