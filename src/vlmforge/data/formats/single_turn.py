"""What the formats of one question about one picture share."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from vlmforge.data.formats.base import Guidance, require_text
from vlmforge.data.formats.turns import IMAGE, VIDEO, merge_media, open_parts
from vlmforge.data.sample import Message, Place, Sample

# What Megatron's multimodal examples say before everything but captions.
SYSTEM = "Answer the questions."


def ask(
    question: str, answer: str, medium: Any, place: Place, guidance: Guidance, *, system: str | None = SYSTEM
) -> Sample:
    """A sample of one question and its answer.

    Args:
        question: with `<image>` where the picture stands; without, it stands a line above.
        answer: what is trained.
        medium: the picture; a film where the source's subflavor `has_video` says so.
        place: where the row is.
        guidance: of the row.
        system: the system turn; None: none.
    """
    is_video = bool(guidance.subflavors.get("has_video"))
    kind, tag = ("video", VIDEO) if is_video else ("image", IMAGE)
    question = question.replace(IMAGE, tag)
    turns: list[Message] = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": question if tag in question else f"{tag}\n{question}"})
    turns.append({"role": "assistant", "content": answer})
    parts = open_parts(kind, medium, place, kind)
    return Sample(place, messages=merge_media(turns, [] if is_video else parts, parts if is_video else [], place))


def clean_answer(value: Any, column: str, place: Place) -> str:
    """An answer without blanks around it; a number is written out.

    Raises:
        BadSampleError: it is empty or no text.
    """
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    return require_text(text, column, place).strip()


def choose_line(text: str, chance: random.Random) -> str:
    """One line of a text, as the subflavor `SplitByLine` wants; blank ones do not count."""
    return chance.choice([line.strip() for line in text.splitlines() if line.strip()])


def choose_answer(answers: Any, weights: Any, column: str, place: Place, chance: random.Random) -> str:
    """An answer; of several one, as likely as its weight says.

    Raises:
        BadSampleError: there is none, or weights do not fit.
    """
    if not isinstance(answers, list):
        return clean_answer(answers, column, place)
    if not answers:
        raise place.error(f"{column} is an empty list", "give every question an answer", "empty")
    if weights is None:
        return clean_answer(chance.choice(answers), column, place)
    numbers = _read_weights(weights, len(answers), place)
    return clean_answer(chance.choices(answers, numbers)[0], column, place)


def _read_weights(weights: Any, count: int, place: Place) -> Sequence[float]:
    """Weights that choose among so many answers."""
    fits = isinstance(weights, list) and len(weights) == count
    if fits and all(isinstance(w, int | float) and w >= 0 for w in weights) and 0 < sum(weights) < math.inf:
        return [float(weight) for weight in weights]
    what = f"answer_weights = {str(weights)[:80]} must be {count} numbers that are not negative, and not all 0"
    raise place.error(what, "give each answer a weight, or leave answer_weights out")
