"""Pictures on their way to the model: how many tokens one becomes, where they stand, and its pixels.

What a picture becomes is the model's to say. An `ImageRule` is made in `models` and handed in; this file only names
what such a rule does and gives, and lets it work on the samples of a micro-batch.
"""

# Shapes: S tokens of one sample, P rows of positions (1, or 4 where positions have parts).

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from vlmforge.data.film import Frame, decode_all
from vlmforge.data.media import Media
from vlmforge.data.sample import ImageSpan, RenderedSample

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Grid = tuple[int, int, int]


class ImageLayout(Protocol):
    """What a picture of some size becomes."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens that take the place of its placeholder."""
        ...

    @property
    def grid(self) -> Grid:
        """Frames, rows and columns of its patches, or of its tiles without the thumbnail."""
        ...

    @property
    def lead(self) -> str:
        """Text before those tokens that is made tokens of together with what stands before it; mostly empty."""
        ...


class ImageTensors(Protocol):
    """The pixels of some pictures, as the tower takes them."""

    @property
    def pixel_values(self) -> torch.Tensor:
        """`[patches, values]` of all pictures end to end, or `[tiles, 3, height, width]`."""
        ...

    @property
    def image_grid_thw(self) -> torch.Tensor | None:
        """`[pictures, 3]` int64: frames, rows and columns of patches; None where all tiles are alike."""
        ...

    def to(self, device: torch.device | str) -> ImageTensors:
        """The same on `device`."""
        ...

    def join(self, more: ImageTensors) -> ImageTensors:
        """These pictures and more, end to end."""
        ...


class ImageRule(Protocol):
    """How a model sees pictures."""

    @property
    def placeholder_id(self) -> int:
        """The token that the chat template writes once for each picture."""
        ...

    @property
    def num_frames(self) -> int:
        """Frames taken of a film, each of which is a picture."""
        ...

    @property
    def frame_shrinks(self) -> int:
        """How often `shrink` is applied for a frame of a film, whatever its sample's length."""
        ...

    @property
    def tag_ids(self) -> frozenset[int]:
        """Tokens around a picture, which are cut off with it."""
        ...

    @property
    def masks_next(self) -> bool:
        """Whether the token after a picture is never trained, as the picture's last token would predict it."""
        ...

    def join(self, before: list[int], lead: str) -> list[int]:
        """Tokens with a layout's `lead` behind them, made of both together."""
        ...

    def measure(self, width: int, height: int) -> ImageLayout:
        """What a picture of this size, in pixels, becomes.

        Raises:
            ValueError: the model takes no picture of this shape.
        """
        ...

    def shrink(self) -> ImageRule | None:
        """The rule with the next smaller budget of tiles or pixels for a picture; None: there is none."""
        ...

    def positions(self, sample: RenderedSample) -> npt.NDArray[np.int64]:
        """`[P, S]`: rotary positions of a sample's tokens, its plain ones first."""
        ...

    def make_tensors(self, pictures: Sequence[Image], grids: Sequence[Grid]) -> ImageTensors:
        """The pixels of decoded pictures; `grids` are what `measure` said of each."""
        ...

    def show_tensors(self, tensors: ImageTensors, grids: Sequence[Grid]) -> list[list[npt.NDArray[np.uint8]]]:
        """The tiles of each picture as `[height, width, 3]`, made back from the pixels: what the model sees."""
        ...


class Measured(NamedTuple):
    """A picture, what it becomes, and how often the rule was shrunk that says so, at least and in all."""

    media: Media | Frame
    layout: ImageLayout
    num_shrinks: int
    least_shrinks: int = 0


def expand_images(
    ids: Sequence[int],
    is_label: Sequence[bool],
    placeholder_id: int,
    pictures: Sequence[Measured],
    masks_next: bool = False,
    join: Callable[[list[int], str], list[int]] | None = None,
) -> tuple[list[int], list[bool], tuple[ImageSpan, ...]]:
    """Put each picture's tokens in the place of its placeholder; they are never trained.

    Args:
        ids: with one placeholder a picture.
        is_label: of the same length.
        placeholder_id: the placeholder.
        pictures: in order, with what each becomes.
        masks_next: whether the token after a picture is not trained either.
        join: tokens with a text behind them, made of both together; for pictures with a lead.
    """
    new_ids: list[int] = []
    new_labels: list[bool] = []
    spans: list[ImageSpan] = []
    at = 0
    for media, layout, *shrinks in pictures:
        place = ids.index(placeholder_id, at)
        new_ids += ids[at:place]
        new_labels += is_label[at:place]
        if layout.lead:
            assert join is not None, "a lead comes from a rule that joins"
            joined = join(new_ids, layout.lead)
            same = next((k for k, (a, b) in enumerate(zip(new_ids, joined, strict=False)) if a != b), len(new_ids))
            # What became another token is the picture's.
            new_ids, new_labels = joined, new_labels[:same] + [False] * (len(joined) - same)
        spans.append(ImageSpan(len(new_ids), len(layout.ids), layout.grid, media, *shrinks))
        new_ids += layout.ids
        new_labels += [False] * len(layout.ids)
        at = place + 1
    new_ids += ids[at:]
    new_labels += is_label[at:]
    for span in spans if masks_next else ():
        new_labels[span.stop : span.stop + 1] = [False] * len(new_labels[span.stop : span.stop + 1])
    return new_ids, new_labels, tuple(spans)


def fit_length(ids: Sequence[int], images: Sequence[ImageSpan], tag_ids: frozenset[int], most: int) -> int:
    """How many tokens stay of a sample that is cut: at most `most`, no part of a picture or its tags without the rest.

    Args:
        ids: before the cut.
        images: the pictures among them.
        tag_ids: tokens around a picture, one before it and one after it.
        most: longest that the sample may be.
    """
    whole = (_with_tags(span, ids, tag_ids) for span in images)
    return next((start for start, stop in whole if start < most < stop), most)


def _with_tags(span: ImageSpan, ids: Sequence[int], tag_ids: frozenset[int]) -> tuple[int, int]:
    """First token of a picture with its tags, and the token after them; those of its own are in its span."""
    if ids[span.start] in tag_ids:
        return span.start, span.stop
    has_first = span.start > 0 and ids[span.start - 1] in tag_ids
    has_last = span.stop < len(ids) and ids[span.stop] in tag_ids
    return span.start - has_first, span.stop + has_last


def make_image_tensors(samples: Sequence[RenderedSample], rule: ImageRule) -> ImageTensors | None:
    """The pixels of all pictures of some samples, in order; None if there are none.

    Raises:
        DataError: a picture cannot be decoded.
    """
    return make_span_tensors([span for sample in samples for span in sample.images], rule)


def make_span_tensors(spans: Sequence[ImageSpan], rule: ImageRule) -> ImageTensors | None:
    """The pixels of some pictures, in order; None if there are none.

    Raises:
        DataError: a picture cannot be decoded.
    """
    if not spans:
        return None
    runs = [list(run) for _, run in groupby(spans, key=lambda span: span.num_shrinks)]
    return reduce(
        lambda first, more: first.join(more), [_make_run(run, shrink(rule, run[0].num_shrinks)) for run in runs]
    )


def shrink(rule: ImageRule, times: int) -> ImageRule:
    """A rule shrunk so many times."""
    for _ in range(times):
        smaller = rule.shrink()
        assert smaller is not None, "a picture was measured by a rule that there is not"
        rule = smaller
    return rule


def list_rules(rule: ImageRule) -> list[ImageRule]:
    """A rule and what it can be shrunk to, the largest budget first."""
    rules: list[ImageRule] = []
    smaller: ImageRule | None = rule
    while smaller is not None:
        rules.append(smaller)
        smaller = smaller.shrink()
    return rules


def _make_run(spans: Sequence[ImageSpan], rule: ImageRule) -> ImageTensors:
    """The pixels of pictures that the same rule holds for."""
    return rule.make_tensors(decode_all([span.media for span in spans]), [span.grid for span in spans])
