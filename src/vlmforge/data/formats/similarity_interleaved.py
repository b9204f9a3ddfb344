"""Format `similarity_interleaved`: conversations with pictures, as Megatron's fine-tuning reads energon's samples.

`texts` are turns of `from` (human or gpt) and `value`. `<image-N>` stands for the N-th picture, which may come several
times; `<video>` for the film where the subflavor `has_video` says that there is one. One picture serves all tags;
without pictures tags are taken out; missing tags stand before the first question; more tags than pictures are an
error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlmforge.data.formats.base import Format, Guidance
from vlmforge.data.formats.conversations import read_turns
from vlmforge.data.formats.single_turn import SYSTEM
from vlmforge.data.formats.turns import IMAGE, VIDEO, Part, count_tags, merge_media, open_parts, prepend
from vlmforge.data.sample import Message, Place, Sample

_NUMBERED = re.compile(r"<image-(\d+)>")
_ROLES = {"human": "user", "gpt": "assistant"}


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A conversation about pictures, a film, or neither."""
    turns: list[Message] = [{"role": "system", "content": SYSTEM}, *read_turns(fields["texts"], "texts", _ROLES, place)]
    if guidance.subflavors.get("has_video"):
        film = fields.get("video", fields.get("images"))
        return Sample(place, messages=_join_film(turns, open_parts("video", film, place, "video"), place))
    images = open_parts("image", fields.get("images"), place, "images")
    images = _reorder(turns, images, place)
    turns = _replace(turns, _NUMBERED, IMAGE)
    number = count_tags([turn for turn in turns if turn["role"] == "user"], IMAGE)
    if not images:
        turns = _replace(turns, re.compile(IMAGE), "")
    elif len(images) == 1 and number > 1:
        images = images * number
    turns = prepend(turns, IMAGE * (len(images) - number))
    return Sample(place, messages=merge_media(turns, images, [], place))


def _join_film(turns: list[Message], films: list[Part], place: Place) -> tuple[Message, ...]:
    """The one film where a tag stands for it, or before the first question."""
    if len(films) != 1:
        raise place.error(f"the row has {len(films)} films, and has_video means one", "mend the row or the subflavor")
    return merge_media(_replace(turns, re.compile(IMAGE), VIDEO), [], films, place)


def _reorder(turns: list[Message], images: list[Part], place: Place) -> list[Part]:
    """The pictures as numbered tags ask for them; as they are where no tag has a number."""
    numbers = [int(n) for turn in turns if turn["role"] == "user" for n in _NUMBERED.findall(turn["content"])]
    wrong = next((n for n in numbers if not 1 <= n <= len(images)), None)
    if wrong is not None and images:
        raise place.error(f"<image-{wrong}> is asked for, and the row has {len(images)} images", "mend the tag")
    return [images[n - 1] for n in numbers] if numbers and images else images


def _replace(turns: list[Message], pattern: re.Pattern[str], new: str) -> list[Message]:
    """User turns with a tag written differently."""
    return [
        {**turn, "content": pattern.sub(new, turn["content"])} if turn["role"] == "user" else turn for turn in turns
    ]


SIMILARITY_INTERLEAVED = Format(
    name="similarity_interleaved", required=("texts",), optional=("images", "video"), parse_fields=_parse
)
