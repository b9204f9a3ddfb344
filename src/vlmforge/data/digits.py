"""Handwritten numbers from 00 to 99: two of scikit-learn's real digits side by side, as PNG files.

The digits are the 1,797 of 8 x 8 pixels in 17 shades that scikit-learn brings along (Alpaydin and Kaynak 1998, Optical
Recognition of Handwritten Digits, UCI, CC BY 4.0).
"""

from __future__ import annotations

from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmforge.data.draw import encode_png

NUM_ROWS = 24_000
# Rows from here on are made of digits that those before never show.
FIRST_HELD_OUT = 20_000
# One digit in so many is held out.
_HELD_OUT_STRIDE = 5
# Each of a digit's pixels becomes a square of so many.
_ENLARGED = 4
_WHITE, _MOST_INK = 255, 16


@lru_cache(maxsize=2)
def _load(is_held_out: bool) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Pictures of digits `[N, 32, 32]`, black on white, and what they show."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    is_chosen = (np.arange(len(digits.target)) % _HELD_OUT_STRIDE == 0) == is_held_out
    grey = _WHITE - np.rint(digits.images[is_chosen] * (_WHITE / _MOST_INK)).astype(np.uint8)
    return grey.repeat(_ENLARGED, axis=1).repeat(_ENLARGED, axis=2), digits.target[is_chosen]


def digits(index: int) -> dict[str, Any]:
    """A conversation about a picture of 64 x 32 pixels; the answer is the number in two digits."""
    pictures, shown = _load(index >= FIRST_HELD_OUT)
    draw = Random(index)
    left, right = draw.randrange(len(shown)), draw.randrange(len(shown))
    grey = np.concatenate([pictures[left], pictures[right]], axis=1)
    rgb = grey[:, :, None].repeat(3, axis=2)
    question = [
        {"type": "image", "image": encode_png(rgb.shape[1], [row.tobytes() for row in rgb])},
        {"type": "text", "text": "Which number?"},
    ]
    answer = {"role": "assistant", "content": f"{shown[left]}{shown[right]}"}
    return {"messages": [{"role": "user", "content": question}, answer]}
