"""What a row becomes on its way to the model: a `Sample`, then a `RenderedSample`, then a part of a `Row`.

This file only names the shapes. Formats make samples, `render.py` renders them, `pack.py` makes rows.
"""

# Shapes: S tokens of one sample.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmforge.data.bad import BadKind, BadSampleError, format_sample_id
from vlmforge.data.film import Film, Frame
from vlmforge.data.media import Media
from vlmforge.data.turns import weigh_turns
from vlmforge.errors import Problem

# What is wrong, and what helps.
TAKES_TEXT_ONLY = (
    "the sample has images, and the model takes text only",
    "choose a model that sees (model=qwen3_vl_2b), or leave the images out",
)

Message = Mapping[str, Any]
# A turn's content: a string, or, where it has images or videos, its parts in order:
# {"type": "text", "text": str}, {"type": "image", "image": Media}, {"type": "video", "video": Film}.
Content = str | tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Place:
    """Where a row was read from.

    Attributes:
        source: name of the source, as logs and ledger have it.
        index: row of the source, counted from 0 over all its files.
        where: `file:line`, or `file row N`.
        media_root: folder or fsspec URL where relative paths of its images start; empty: the working directory.
        may_fetch: whether the recipe allows to fetch addresses that the row gives.
    """

    source: str
    index: int
    where: str
    media_root: str = ""
    may_fetch: bool = False

    @property
    def sample_id(self) -> str:
        """`source#index`."""
        return format_sample_id(self.source, self.index)

    def problem(self, what: str, fix: str) -> Problem:
        """A problem of this row, with its place and its sample id."""
        return Problem(what=what, where=f"{self.where} (sample {self.sample_id})", fix=fix)

    def error(self, what: str, fix: str, kind: BadKind = "wrong_type") -> BadSampleError:
        """The same as an error to raise."""
        return BadSampleError(self.problem(what, fix), kind)


def content_text(content: Content) -> str:
    """The text of a turn's content, without its images."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def content_media(content: Content) -> list[Media | Film | Frame]:
    """The images and videos of a turn's content, in order."""
    if isinstance(content, str):
        return []
    return [part[part["type"]] for part in content if part["type"] != "text"]


@dataclass(frozen=True)
class Sample:
    """One row as its format understands it: exactly one of `messages`, `text` or `prompt` with `response`.

    Attributes:
        place: where it was read.
        messages: turns in OpenAI's shape; contents are strings, or parts where they hold images (`Content`).
        tools: tool descriptions for the chat template; only with messages.
        text: plain text.
        prompt: what is asked; only with `response`.
        response: what is to be answered.
    """

    place: Place
    messages: tuple[Message, ...] | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    text: str | None = None
    prompt: str | None = None
    response: str | None = None

    @property
    def sample_id(self) -> str:
        """`source#index`."""
        return self.place.sample_id

    def conversation(self) -> tuple[Message, ...] | None:
        """The turns; a prompt and its response are a user and an assistant turn; None for plain text."""
        if self.messages is not None:
            return self.messages
        if self.prompt is None:
            return None
        return ({"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.response})

    def media(self) -> list[Media | Film | Frame]:
        """The images and videos of all turns, in order."""
        return [media for turn in self.conversation() or () for media in content_media(turn["content"])]

    def as_task(self) -> tuple[tuple[Message, ...], str]:
        """What a task asks and what it compares with: the turns before the last answer, and that answer.

        Raises:
            DataError: there is no assistant turn, or nothing before it.
        """
        turns = self.conversation() or ()
        last = max((k for k, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
        if last == 0:
            raise self.place.error(
                "the sample has no answer that a task could compare with",
                "score tasks on data of format messages or prompt_response",
            )
        return turns[:last], content_text(turns[last]["content"])


@dataclass(frozen=True)
class ImageSpan:
    """A picture among a sample's tokens.

    Attributes:
        start: first of its tokens.
        num_tokens: how many it has, tags of its own included.
        grid: what the model's rule says of its shape; see `ImageLayout`.
        media: where it is; a frame where it is a film's.
        num_shrinks: how often the rule's budget was made smaller for it; see `data.shrink_images`.
        least_shrinks: how often it is for any of its kind, as for a frame, whatever the sample's length.
    """

    start: int
    num_tokens: int
    grid: tuple[int, int, int]
    media: Media | Frame
    num_shrinks: int = 0
    least_shrinks: int = 0

    @property
    def stop(self) -> int:
        """The token after it."""
        return self.start + self.num_tokens


@dataclass(frozen=True)
class RenderedSample:
    """One sample as tokens.

    Attributes:
        input_ids: `[S]` int32.
        is_label: `[S]` bool, True where the token itself is to be predicted (not shifted).
        source: name of the source.
        index: row of the source.
        was_truncated: its end was cut to fit `stage.seq_len`.
        images: its pictures, in the order of their tokens.
        weighs_turns: its turns count by the root of their length, and all of it as one; see `turns.py`.
    """

    input_ids: npt.NDArray[np.int32]
    is_label: npt.NDArray[np.bool_]
    source: str
    index: int
    was_truncated: bool = False
    images: tuple[ImageSpan, ...] = ()
    weighs_turns: bool = False

    @property
    def sample_id(self) -> str:
        """`source#index`."""
        return format_sample_id(self.source, self.index)

    @property
    def num_tokens(self) -> int:
        """S."""
        return len(self.input_ids)

    @cached_property
    def num_label_tokens(self) -> int:
        """Tokens that enter the loss: nothing predicts the first token of a sample."""
        return int(self.is_label[1:].sum())

    @property
    def total_weight(self) -> int:
        """What the weights of its labels sum to: their number, or 1 where turns are weighed."""
        return min(1, self.num_label_tokens) if self.weighs_turns else self.num_label_tokens

    def token_weights(self) -> npt.NDArray[np.float32]:
        """`[S - 1]`: what predicting each token but the first counts in the loss."""
        is_label = self.is_label[1:]
        return weigh_turns(is_label) if self.weighs_turns else is_label.astype(np.float32)


Row = tuple[RenderedSample, ...]


def count_row_tokens(row: Row) -> int:
    """Tokens of all samples of a row."""
    return sum(sample.num_tokens for sample in row)
