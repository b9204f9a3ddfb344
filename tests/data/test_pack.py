import random

from hypothesis import given
from hypothesis import strategies as st

from vlmforge.data.pack import pack_best_fit


@given(st.lists(st.integers(1, 50), max_size=80))
def test_packing_loses_nothing_and_never_exceeds(lengths):
    rows = pack_best_fit(lengths, 50)
    assert sorted(position for row in rows for position in row) == list(range(len(lengths)))
    assert all(sum(lengths[position] for position in row) <= 50 for row in rows)


@given(st.lists(st.integers(1, 50), max_size=80))
def test_no_two_rows_would_fit_into_one(lengths):
    fills = sorted(sum(lengths[position] for position in row) for row in pack_best_fit(lengths, 50))
    assert len(fills) < 2 or fills[0] + fills[1] > 50


def test_rows_are_almost_full_on_lengths_as_in_grade_school_maths():
    draw = random.Random(0)
    lengths = [min(600, max(60, int(draw.gauss(189, 70)))) for _ in range(1024)]
    rows = pack_best_fit(lengths, 2048)
    assert sum(lengths) / (len(rows) * 2048) >= 0.97


def test_rows_stand_in_the_order_of_their_first_sample():
    assert pack_best_fit([3, 8, 9, 2, 1], 10) == [[0], [1, 3], [2, 4]]
