"""What the terminal says of a picture, and what it shows of characters that cannot be seen."""

import pytest

from vlmforge.preview.terminal import describe_image, make_visible
from vlmforge.preview.view import ShownImage


@pytest.mark.parametrize(("num_shrinks", "words"), [(0, ""), (1, ", made smaller once"), (3, ", made smaller 3 times")])
def test_a_picture_says_how_often_it_was_made_smaller(num_shrinks, words):
    image = ShownImage("a.png", 40, 24, 0, 6, (1, 4, 6), (), num_shrinks)
    assert describe_image(image, 2) == f"image 2: 40 x 24 pixels{words}, 6 tokens"


def test_a_frame_says_which_one_of_its_film_it_is():
    image = ShownImage("a.mp4, frame 5", 40, 24, 0, 6, (1, 4, 6), (), frame=5)
    assert describe_image(image, 2) == "image 2, frame 5 of a film: 40 x 24 pixels, 6 tokens"


def test_what_ends_a_line_or_turns_the_writing_is_shown_by_its_number():
    assert (
        make_visible("a\u2028b\u202ec\x1b[1m d\n\u00e9\U0001f600") == "a\\u2028b\\u202ec\\x1b[1m d\\n\n\u00e9\U0001f600"
    )
