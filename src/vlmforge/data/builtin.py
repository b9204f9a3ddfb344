"""Samples that come with the package, each a pure function of its index: no file, no download, no state.

Those that are called like a format, and `image_messages`, stand in for a recipe's own data at `scale=tiny`; `dates` and
`digits` are tasks small enough for a model of a few layers to learn from nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlmforge.data import builtin_images, digits
from vlmforge.data.draw import draw_square

PREFIX = "builtin:"

_COLOURS = ("red", "blue", "green", "white", "black", "brown", "grey", "pink")
_RGB = {
    "red": (220, 30, 30), "blue": (30, 60, 220), "green": (20, 160, 60), "white": (255, 255, 255),
    "black": (0, 0, 0), "brown": (120, 70, 20), "grey": (128, 128, 128), "pink": (250, 150, 190),
}  # fmt: skip
_THINGS = ("boat", "kite", "drum", "lamp", "cart", "bell", "coat", "rope")
_CITIES = ("Oslo", "Lima", "Cairo", "Quito", "Rome", "Delhi", "Paris", "Accra")

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_PHRASINGS = (
    "Write {day} {month} {year} as an ISO date.",
    "What is {month} {day}, {year} in ISO form?",
    "ISO date of {year} {month} {day}?",
    "{day} {month} {year} as ISO, please.",
)
_FIRST_DAY = datetime.date(2000, 1, 1)
_NUM_DAYS = 10_958  # 2000 to 2029
_DAY_STRIDE = 4_567  # has no divisor in common with _NUM_DAYS, so that no date comes twice
_NUM_DATES = 8_192


@dataclass(frozen=True)
class Builtin:
    """One set of samples.

    Attributes:
        format: the format whose columns `fields` gives.
        num_rows: how many there are.
        fields: the values by column name, for an index in [0, num_rows).
    """

    format: str
    num_rows: int
    fields: Callable[[int], dict[str, Any]]


def _pick(index: int) -> tuple[str, str, str]:
    """A colour, a thing and a city; the pair of colour and thing differs over 64 indices."""
    return _COLOURS[index % 8], _THINGS[index // 8 % 8], _CITIES[(index * 3 + index // 8) % 8]


def _text(index: int) -> dict[str, Any]:
    """One sentence."""
    colour, thing, city = _pick(index)
    return {"text": f"The {colour} {thing} came from {city} with {index + 2} others."}


def _prompt_response(index: int) -> dict[str, Any]:
    """A question whose answer stands in it."""
    colour, thing, city = _pick(index)
    return {"prompt": f"A {colour} {thing} is in {city}. Where is the {thing}?", "response": f"In {city}."}


def _messages(index: int) -> dict[str, Any]:
    """A conversation; some have a system turn, some two exchanges, some a tool call."""
    colour, thing, city = _pick(index)
    turns: list[dict[str, Any]] = []
    if index % 4 in (1, 3):
        turns.append({"role": "system", "content": "Answer in one word."})
    turns.append({"role": "user", "content": f"My {thing} is {colour}. Which colour?"})
    if index % 4 == 3:
        call = {"type": "function", "function": {"name": "look", "arguments": {"at": thing}}}
        turns.append({"role": "assistant", "content": "", "tool_calls": [call]})
        turns.append({"role": "tool", "content": colour})
    turns.append({"role": "assistant", "content": colour.capitalize()})
    if index % 4 == 2:
        turns.append({"role": "user", "content": f"And if I paint it in {city}?"})
        turns.append({"role": "assistant", "content": "Another"})
    return {"messages": turns}


def _image_messages(index: int) -> dict[str, Any]:
    """Questions about small drawn pictures: one, two in a conversation, in an answer, or (every fourth row) none."""
    if index % 4 == 3:
        return _messages(index)
    colour, _, _ = _pick(index)
    # Sides of 18 to 65 pixels, so that pictures differ in shape.
    picture = draw_square(18 + index * 7 % 48, 18 + index * 13 % 48, _RGB[colour])
    content: list[dict[str, Any]] = [
        {"type": "image", "image": picture},
        {"type": "text", "text": "Which colour is the square?"},
    ]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": colour.capitalize()}]
    if index % 4 == 2:
        other = {"type": "image", "image": draw_square(24, 40, _RGB[_COLOURS[(index + 3) % 8]])}
        question = [{"type": "text", "text": "And here: "}, other, {"type": "text", "text": "the same?"}]
        answer = [{"type": "text", "text": "No, unlike "}, other, {"type": "text", "text": " it is not."}]
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def _dates(index: int) -> dict[str, Any]:
    """A date in words and the same date in ISO 8601; every index has a date of its own."""
    date = _FIRST_DAY + datetime.timedelta(days=index * _DAY_STRIDE % _NUM_DAYS)
    # Not `index % 4`: neighbouring rows should not go through the phrasings in step with the days.
    phrasing = _PHRASINGS[(index * 2_654_435_761 >> 16) % len(_PHRASINGS)]
    prompt = phrasing.format(day=date.day, month=MONTHS[date.month - 1], year=date.year)
    return {"prompt": prompt, "response": date.isoformat()}


BUILTINS: Mapping[str, Builtin] = {
    "text": Builtin("text", 64, _text),
    "messages": Builtin("messages", 64, _messages),
    "prompt_response": Builtin("prompt_response", 64, _prompt_response),
    "image_messages": Builtin("messages", 64, _image_messages),
    "llava": Builtin("llava", 64, builtin_images.llava),
    "sharegpt": Builtin("sharegpt", 64, builtin_images.sharegpt),
    "captioning": Builtin("captioning", 64, builtin_images.captioning),
    "vqa": Builtin("vqa", 64, builtin_images.vqa),
    "multi_choice_vqa": Builtin("multi_choice_vqa", 64, builtin_images.multi_choice_vqa),
    "ocr": Builtin("ocr", 64, builtin_images.ocr),
    "similarity_interleaved": Builtin("similarity_interleaved", 64, builtin_images.similarity_interleaved),
    "energon": Builtin("energon", 64, builtin_images.captioning),
    "dates": Builtin("prompt_response", _NUM_DATES, _dates),
    "digits": Builtin("messages", digits.NUM_ROWS, digits.digits),
}


def nest_fields(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A row with every field at the dotted path where the source's `columns` will look for it."""
    row: dict[str, Any] = {}
    for column, value in fields.items():
        *parents, last = columns.get(column, column).split(".")
        inner = row
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return row
