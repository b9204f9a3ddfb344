"""The quickstart's pictures."""

from io import BytesIO

import numpy as np
from PIL import Image

from vlmforge.data.digits import FIRST_HELD_OUT, NUM_ROWS, digits


def halves(index: int) -> set[bytes]:
    """The pixels of a row's two digits."""
    png = digits(index)["messages"][0]["content"][0]["image"]
    pixels = np.asarray(Image.open(BytesIO(png)))
    assert pixels.shape == (32, 64, 3)
    return {pixels[:, :32].tobytes(), pixels[:, 32:].tobytes()}


def test_no_digit_that_is_asked_about_at_the_end_was_in_training() -> None:
    learnt = set().union(*(halves(index) for index in range(0, FIRST_HELD_OUT, 20)))
    asked = set().union(*(halves(index) for index in range(FIRST_HELD_OUT, NUM_ROWS, 10)))
    assert len(learnt) > 1000
    assert len(asked) > 300
    assert not learnt & asked


def test_a_row_is_a_function_of_its_number_and_all_numbers_come() -> None:
    assert digits(3) == digits(3)
    answers = {digits(index)["messages"][1]["content"] for index in range(1000)}
    assert answers == {f"{number:02d}" for number in range(100)}
