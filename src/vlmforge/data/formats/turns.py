"""Turns with pictures: tags in texts and values in columns become the parts of a content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlmforge.data.film import open_film
from vlmforge.data.media import open_media
from vlmforge.data.sample import Content, Message, Place

IMAGE = "<image>"
VIDEO = "<video>"
_TAGS = {"image": IMAGE, "video": VIDEO}
_TAG = re.compile("<image>|<video>")

Part = Mapping[str, Any]


def list_values(value: Any) -> list[Any]:
    """The values of a column that may hold one, several, or several as JSON."""
    if value is None:
        return []
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
    return [item for item in value if item is not None] if is_list else [value]


def open_parts(kind: str, value: Any, place: Place, name: str) -> list[Part]:
    """The pictures or films of a column as parts; nothing is opened.

    Args:
        kind: image or video.
        value: one or a list of what `open_media` takes, or of `{image: ...}` as verl writes it.
        place: where the row is.
        name: of the column.

    Raises:
        BadSampleError: a value is neither a path nor bytes.
    """
    values = list_values(value)
    parts: list[Part] = []
    for k, item in enumerate(values):
        inner = item[kind] if isinstance(item, Mapping) and item.get(kind) is not None else item
        told = f"{name}[{k}]" if len(values) > 1 else name
        parts.append(open_part(kind, inner, place, told))
    return parts


def open_part(kind: str, value: Any, place: Place, name: str) -> Part:
    """A picture or film as a part of a content."""
    return {"type": kind, kind: open_film(value, place, name) if kind == "video" else open_media(value, place, name)}


def merge_media(
    turns: Sequence[Message], images: Sequence[Part], videos: Sequence[Part], place: Place
) -> tuple[Message, ...]:
    """Put pictures and films where their tags stand in what is asked, in order.

    Where there is no tag at all for them, they stand before the text of the first user turn. Contents that have
    parts already are left as they are.

    Args:
        turns: the conversation.
        images: parts for `<image>`.
        videos: parts for `<video>`.
        place: where the row is.

    Raises:
        BadSampleError: an answer has a tag, or there are more or fewer tags than parts.
    """
    given = {"image": list(images), "video": list(videos)}
    _refuse_tags_in_answers(turns, [_TAGS[kind] for kind, parts in given.items() if parts], place)
    turns = prepend(turns, "".join(tag * len(given[kind]) for kind, tag in _TAGS.items() if not count_tags(turns, tag)))
    for kind, tag in _TAGS.items():
        found = count_tags(turns, tag)
        if found != len(given[kind]):
            what = f"the turns have {found} {tag} tags, and the row has {len(given[kind])} {kind}s"
            raise place.error(what, f"write {tag} once for every {kind}, or nowhere")
    parts = {kind: iter(values) for kind, values in given.items()}
    return tuple({**turn, "content": _split(turn["content"], parts)} if _is_asked(turn) else turn for turn in turns)


def count_tags(turns: Sequence[Message], tag: str) -> int:
    """How often a tag stands in what is asked."""
    return sum(turn["content"].count(tag) for turn in turns if _is_asked(turn))


def prepend(turns: Sequence[Message], tags: str) -> list[Message]:
    """The turns with tags and a line end before the first user turn; without tags as they are."""
    first = next((k for k, turn in enumerate(turns) if turn["role"] == "user" and _is_asked(turn)), None)
    if not tags or first is None:
        return list(turns)
    asked = {**turns[first], "content": f"{tags}\n{turns[first]['content']}"}
    return [*turns[:first], asked, *turns[first + 1 :]]


def _is_asked(turn: Message) -> bool:
    """Whether a turn is no answer, and has text in which tags may stand."""
    return turn["role"] != "assistant" and isinstance(turn["content"], str)


def _refuse_tags_in_answers(turns: Sequence[Message], tags: Sequence[str], place: Place) -> None:
    """Models answer in text."""
    for turn in turns:
        for tag in tags:
            if turn["role"] == "assistant" and tag in turn["content"]:
                raise place.error(f"an assistant turn contains {tag}", "take the tag out of the answer")


def _split(text: str, parts: Mapping[str, Iterator[Part]]) -> Content:
    """A text as parts; a text without tags stays a string."""
    contents: list[Part] = []
    done = 0
    for match in _TAG.finditer(text):
        if match.start() > done:
            contents.append({"type": "text", "text": text[done : match.start()]})
        contents.append(next(parts["image" if match[0] == IMAGE else "video"]))
        done = match.end()
    if not contents:
        return text
    if done < len(text):
        contents.append({"type": "text", "text": text[done:]})
    return tuple(contents)
