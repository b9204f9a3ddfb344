"""Questions about pictures that are drawn on the spot: bar charts, and lines of large capital letters in two fonts.

    python scripts/draw_questions.py                     # 20,000 rows into assets/drawn, half a minute

writes train.jsonl and validation.jsonl in format `messages`, and a picture for each row. Rows depend on their number
alone. What is held out is decided by a word's letters, and by the heights and colours of a chart's bars: no training
row shows the same word or the same bars.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import matplotlib
from PIL import Image, ImageDraw, ImageFont

NUM_ROWS, NUM_HELD_OUT = 20_000, 400
FONTS = ("DejaVuSans-Bold", "DejaVuSansMono-Bold")
FOLDER = Path(matplotlib.get_data_path()) / "fonts/ttf"
COLOURS = {"red": "#dc3912", "blue": "#3366cc", "green": "#109618", "orange": "#ff9900", "purple": "#990099"}
HIGHEST, NUM_BARS = 9, 3
# One word, and one set of bars, in so many is held out.
HELD_OUT_STRIDE = 10
CONSONANTS, VOWELS = "DFKLMRSZ", "AEIO"
# Pixels: a chart's sides, a bar with its margins, where bars end; a letter with its margins, and its size.
SIDE, BAR, TOP, BOTTOM = 64, 16, 4, 58
LETTER, SIZES, NUMBER_SIZE = 32, (28, 29, 30), 8

Question = tuple[Image.Image, str, str]


def choose_bars(draw: Random, is_held_out: bool) -> tuple[list[int], list[str]]:
    """Heights and colours of the bars, all different."""
    while True:
        values = draw.sample(range(1, HIGHEST + 1), NUM_BARS)
        places = draw.sample(range(len(COLOURS)), NUM_BARS)
        mark = sum(
            k * (value + 3 * place) for k, (value, place) in enumerate(zip(values, places, strict=True), start=1)
        )
        if (mark % HELD_OUT_STRIDE == 0) == is_held_out:
            return values, [list(COLOURS)[place] for place in places]


def draw_chart(draw: Random, is_held_out: bool) -> Question:
    """A bar chart on an axis with numbers."""
    values, names = choose_bars(draw, is_held_out)
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    pen, numbers = ImageDraw.Draw(picture), ImageFont.truetype(FOLDER / "DejaVuSans.ttf", NUMBER_SIZE)
    unit = (BOTTOM - TOP) / HIGHEST
    for value in range(0, HIGHEST + 1, 3):
        y = BOTTOM - round(value * unit)
        pen.line((BAR, y, SIDE, y), fill="#bbbbbb")
        pen.text((BAR - 4, y), str(value), fill="black", font=numbers, anchor="rm")
    for k, (name, value) in enumerate(zip(names, values, strict=True), start=1):
        pen.rectangle((BAR * k + 1, BOTTOM - value * unit, BAR * (k + 1) - 2, BOTTOM), fill=COLOURS[name])
    return picture, *ask(draw, values, names)


def ask(draw: Random, values: list[int], names: list[str]) -> tuple[str, str]:
    """A question about a chart, and its answer."""
    kind, chosen = draw.choice(("colours", "heights", "height", "highest", "lowest")), draw.randrange(len(names))
    if kind == "colours":
        return "Name the bars.", " ".join(names)
    if kind == "heights":
        return "How high are the bars?", " ".join(map(str, values))
    if kind == "height":
        return f"How high is the {names[chosen]} bar?", str(values[chosen])
    return f"Which bar is the {kind}?", names[values.index(max(values) if kind == "highest" else min(values))]


def make_word(draw: Random, is_held_out: bool) -> str:
    """Letters, that need be of no language: one, or a syllable of two or three; held out are only syllables."""
    while True:
        letters = (draw.choice(CONSONANTS), draw.choice(VOWELS), draw.choice(CONSONANTS))
        word = "".join(letters[: draw.randint(1, len(letters))])
        if len(word) == 1:
            if is_held_out:
                continue
            return draw.choice((word, letters[1]))
        mark = sum(place * ord(letter) for place, letter in enumerate(word, start=1))
        if (mark % HELD_OUT_STRIDE == 0) == is_held_out:
            return word


def draw_line(draw: Random, is_held_out: bool) -> Question:
    """A word, dark on light, in one of two fonts and three sizes, its letters at the same distance."""
    word = make_word(draw, is_held_out)
    font = ImageFont.truetype(FOLDER / f"{draw.choice(FONTS)}.ttf", draw.choice(SIZES))
    ground = draw.choice(("white", "#fdf6e3", "#eef3f7", "#f5f5f5"))
    picture = Image.new("RGB", (LETTER * len(word), LETTER), ground)
    pen, ink = ImageDraw.Draw(picture), draw.choice(("black", "#333333", "#102a43", "#5b1a1a"))
    right, down = draw.randint(-1, 1), draw.randint(-1, 1)
    for k, letter in enumerate(word):
        place = LETTER * k + LETTER // 2 + right, LETTER // 2 + down
        pen.text(place, letter, fill=ink, font=font, anchor="mm")
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
