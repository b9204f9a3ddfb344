"""What the terminal says of a picture."""

import pytest

from vlmforge.preview.terminal import describe_image
from vlmforge.preview.view import ShownImage


@pytest.mark.parametrize(("num_shrinks", "words"), [(0, ""), (1, ", made smaller once"), (3, ", made smaller 3 times")])
def test_a_picture_says_how_often_it_was_made_smaller(num_shrinks, words):
    image = ShownImage("a.png", 40, 24, 0, 6, (1, 4, 6), (), num_shrinks)
    assert describe_image(image, 2) == f"image 2: 40 x 24 pixels{words}, 6 tokens"
