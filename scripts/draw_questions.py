"""Questions about pictures that are drawn on the spot: bar charts, and lines of text in several fonts.

    python scripts/draw_questions.py                     # 24,000 rows into assets/drawn, a minute

writes train.jsonl and validation.jsonl in format `messages`, and a picture for each row. Rows depend on their number
alone. What is held out is decided by a word's letters, and by the heights and names of a chart's bars: no training row
shows the same word or the same bars.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import matplotlib
from PIL import Image, ImageDraw, ImageFont

NUM_ROWS, NUM_HELD_OUT = 24_000, 400
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
FOLDER = Path(matplotlib.get_data_path()) / "fonts/ttf"
LABELS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
COLOURS = ("#3366cc", "#dc3912", "#ff9900", "#109618", "#990099", "#0099c6", "#dd4477", "#66aa00")
HIGHEST = 9
# One word, and one set of bars, in so many is held out.
HELD_OUT_STRIDE = 10
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"

Question = tuple[Image.Image, str, str]


def choose_bars(draw: Random, is_held_out: bool) -> tuple[list[int], tuple[str, ...]]:
    """Heights of three to five bars, all different, and their names: months that follow each other."""
    while True:
        count = draw.randint(3, 5)
        values = draw.sample(range(1, HIGHEST + 1), count)
        first = draw.randrange(len(LABELS) - count + 1)
        mark = first + sum(place * value for place, value in enumerate(values, start=1))
        if (mark % HELD_OUT_STRIDE == 0) == is_held_out:
            return values, LABELS[first : first + count]


def draw_chart(draw: Random, is_held_out: bool) -> Question:
    """A bar chart on an axis with numbers."""
    values, labels = choose_bars(draw, is_held_out)
    count = len(values)
    width, height, left, bottom = 128, 128, 16, 112
    picture = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.truetype(FOLDER / "DejaVuSans.ttf", 10)
    unit = (bottom - 8) / HIGHEST
    for value in range(0, HIGHEST + 1, 3):
        y = bottom - round(value * unit)
        pen.line((left, y, width - 2, y), fill="#bbbbbb")
        pen.text((left - 3, y), str(value), fill="black", font=font, anchor="rm")
    colour, step = draw.choice(COLOURS), (width - left - 4) / count
    for k, (label, value) in enumerate(zip(labels, values, strict=True)):
        x = left + 2 + k * step
        pen.rectangle((x + step * 0.15, bottom - value * unit, x + step * 0.85, bottom), fill=colour)
        pen.text((x + step / 2, bottom + 8), label, fill="black", font=font, anchor="mm")
    chosen = draw.randrange(count)
    question, answer = draw.choice(
        (
            (f"How high is the bar {labels[chosen]}?", str(values[chosen])),
            ("Which bar is the highest?", labels[values.index(max(values))]),
            ("Which bar is the lowest?", labels[values.index(min(values))]),
            ("How many bars are there?", str(count)),
        )
    )
    return picture, question, answer


def make_word(draw: Random, is_held_out: bool) -> str:
    """A word of two or three syllables that no language has."""
    while True:
        word = "".join(draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(draw.randint(2, 3)))
        if (sum(map(ord, word)) % HELD_OUT_STRIDE == 0) == is_held_out:
            return word


def draw_line(draw: Random, is_held_out: bool) -> Question:
    """A word, dark on light, in one of four fonts and of several sizes."""
    word = make_word(draw, is_held_out)
    font = ImageFont.truetype(FOLDER / f"{draw.choice(FONTS)}.ttf", draw.randint(20, 22))
    picture = Image.new("RGB", (128, 32), draw.choice(("white", "#fdf6e3", "#eef3f7", "#f5f5f5")))
    place = 4 + draw.randrange(8), 16 + draw.randint(-2, 2)
    ink = draw.choice(("black", "#333333", "#102a43", "#5b1a1a"))
    ImageDraw.Draw(picture).text(place, word, fill=ink, font=font, anchor="lm")
    return picture, "Read the line.", word


def draw_row(index: int, is_held_out: bool) -> Question:
    """Charts and lines in turn."""
    draw = Random(f"{index}/{is_held_out}")
    return draw_chart(draw, is_held_out) if index % 2 == 0 else draw_line(draw, is_held_out)


def write_rows(name: str, count: int, target: Path, make: Callable[[int], Question]) -> None:
    """`name`.jsonl and a folder of its pictures."""
    (target / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        picture, question, answer = make(index)
        path = f"{name}/{index:05d}.png"
        picture.save(target / path)
        content = [{"type": "image", "image": path}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}))
    (target / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("assets/drawn"), help="the folder to write")
    parser.add_argument("--rows", type=int, default=NUM_ROWS, help="training rows")
    given = parser.parse_args()
    write_rows("validation", NUM_HELD_OUT, given.to, lambda index: draw_row(index, True))
    write_rows("train", given.rows, given.to, lambda index: draw_row(index, False))
    print(f"{given.rows} rows in {given.to / 'train.jsonl'}, {NUM_HELD_OUT} in {given.to / 'validation.jsonl'}")


if __name__ == "__main__":
    main()
