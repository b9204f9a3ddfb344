"""Drawn questions: their answers are what the pictures show, and held-out ones are of other lines and bars."""

from __future__ import annotations

from functools import cache

from draw_questions import BAR, BOTTOM, COLOURS, HIGHEST, NUM_BARS, NUM_HELD_OUT, TOP, Question, draw_row
from PIL import Image, ImageColor

NUM_TRAIN = 3000
NAMES = {ImageColor.getrgb(code): name for name, code in COLOURS.items()}


@cache
def rows(is_held_out: bool) -> list[Question]:
    return [draw_row(index, is_held_out) for index in range(NUM_HELD_OUT if is_held_out else NUM_TRAIN)]


def read_bars(picture: Image.Image) -> tuple[tuple[str, int], ...]:
    """Colour and height of each bar, by the pixels in its middle."""
    bars = []
    for number in range(1, NUM_BARS + 1):
        column = [picture.getpixel((number * BAR + BAR // 2, y)) for y in range(picture.height)]
        (colour,) = set(column) & NAMES.keys()
        bars.append((NAMES[colour], column.count(colour) * HIGHEST // (BOTTOM - TOP)))
    return tuple(bars)


def answer(question: str, bars: tuple[tuple[str, int], ...]) -> str:
    heights = dict(bars)
    if question.startswith("How high is"):
        return str(heights[question.split()[4]])
    return {
        "Name the bars.": " ".join(heights),
        "How high are the bars?": " ".join(map(str, heights.values())),
        "Which bar is the highest?": max(heights, key=heights.__getitem__),
        "Which bar is the lowest?": min(heights, key=heights.__getitem__),
    }[question]


def lines(is_held_out: bool) -> set[str]:
    return {line for _, question, line in rows(is_held_out) if question == "Read the line."}


def charts(is_held_out: bool) -> list[Question]:
    return [row for row in rows(is_held_out) if row[1] != "Read the line."]


def test_a_chart_shows_the_answer() -> None:
    for picture, question, expected in charts(True):
        assert answer(question, read_bars(picture)) == expected


def test_held_out_lines_and_bars_are_in_no_training_row() -> None:
    assert not lines(True) & lines(False)
    held_out, train = ({read_bars(picture) for picture, _, _ in charts(part)} for part in (True, False))
    assert not held_out & train
    assert {len(line) for line in lines(False)} == {1, 2, 3}
    assert {len(line) for line in lines(True)} == {2, 3}


def test_held_out_lines_are_as_many_as_the_page_says() -> None:
    assert len(lines(True)) == 27
