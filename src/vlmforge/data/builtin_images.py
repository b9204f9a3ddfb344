"""Built-in samples in the layouts of data sets about pictures, each a pure function of its index.

The picture of index i shows a square of a colour, on a ground of a size of its own.
"""

from __future__ import annotations

from typing import Any

from vlmforge.data.draw import draw_square

_COLOURS = {
    "red": (214, 45, 32),
    "blue": (32, 84, 214),
    "green": (24, 150, 68),
    "yellow": (235, 200, 20),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
    "pink": (240, 130, 180),
    "brown": (120, 72, 36),
}
_NAMES = tuple(_COLOURS)
_THINGS = ("boat", "kite", "drum", "lamp", "cart", "bell", "coat", "rope")
_CITIES = ("Oslo", "Lima", "Cairo", "Quito", "Rome", "Delhi", "Paris", "Accra")


def name_colour(index: int) -> str:
    """The colour of the square in picture `index`."""
    return _NAMES[index % 8]


def draw_picture(index: int) -> bytes:
    """Picture `index` as a PNG file of 24 to 66 pixels a side; 64 of them differ."""
    return draw_square(24 + index * 7 % 43, 24 + index * 11 % 41, _COLOURS[name_colour(index)])


def captioning(index: int) -> dict[str, Any]:
    """A picture and what it shows."""
    colour = name_colour(index)
    return {"image": draw_picture(index), "caption": f"A {colour} square on grey."}


def vqa(index: int) -> dict[str, Any]:
    """A question about a picture with answers of different weight."""
    colour = name_colour(index)
    answers = [colour, f"{colour}, a square"]
    return {
        "image": draw_picture(index),
        "context": "Which colour has the square?",
        "answers": answers,
        "answer_weights": [0.75, 0.25],
    }


def multi_choice_vqa(index: int) -> dict[str, Any]:
    """A question with three options."""
    colour = name_colour(index)
    choices = [_NAMES[(index + k * 3) % 8] for k in range(3)]
    return {
        "image": draw_picture(index),
        "context": "Which colour has the square?",
        "choices": choices,
        "correct_choice_idx": choices.index(colour),
    }


def ocr(index: int) -> dict[str, Any]:
    """A word and its box; every third is a page without boxes."""
    colour = name_colour(index)
    row: dict[str, Any] = {"image": draw_picture(index), "text": f"{colour}\n{index}"}
    return row if index % 3 == 2 else row | {"words_boxes": [1, 2, 30 + index % 8, 40], "words_text": [colour]}


def similarity_interleaved(index: int) -> dict[str, Any]:
    """A conversation of two questions about two pictures, the second one first; every fourth about none."""
    colour, other = name_colour(index), name_colour(index + 5)
    texts = [
        {"from": "human", "value": "<image-2>\nWhich colour?\n<image-1>\nAnd the square?"},
        {"from": "gpt", "value": f"{other}, {colour}"},
    ]
    if index % 4 == 3:
        return {"texts": [{"from": "human", "value": f"A {colour} square?"}, {"from": "gpt", "value": "Yes"}]}
    return {"texts": texts, "images": [draw_picture(index), draw_picture(index + 5)]}


def llava(index: int) -> dict[str, Any]:
    """A conversation about a picture in LLaVA's layout."""
    colour = name_colour(index)
    turns = [
        {"from": "human", "value": "<image>\nWhich colour has the square?"},
        {"from": "gpt", "value": colour.capitalize()},
    ]
    return {"conversations": turns, "image": draw_picture(index)}


def sharegpt(index: int) -> dict[str, Any]:
    """A conversation in ShareGPT's layout, without a picture: text models read it too."""
    colour, thing, city = name_colour(index), _THINGS[index // 8 % 8], _CITIES[index * 3 % 8]
    turns = [
        {"from": "human", "value": f"A {colour} {thing} is in {city}. Where is it?"},
        {"from": "gpt", "value": f"In {city}."},
    ]
    return {"conversations": turns}
