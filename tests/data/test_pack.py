import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmforge.data.collate import collate
from vlmforge.data.pack import PACKINGS, pack_best_fit, pack_knapsack
from vlmforge.data.sample import RenderedSample

EITHER = pytest.mark.parametrize("pack", PACKINGS.values(), ids=PACKINGS)


@EITHER
@given(lengths=st.lists(st.integers(1, 50), max_size=80))
def test_packing_loses_nothing_and_never_exceeds(pack, lengths):
    rows = pack(lengths, 50)
    assert sorted(position for row in rows for position in row) == list(range(len(lengths)))
    assert all(sum(lengths[position] for position in row) <= 50 for row in rows)


@given(st.lists(st.integers(1, 50), max_size=80))
def test_no_two_rows_of_best_fit_would_fit_into_one(lengths):
    fills = sorted(sum(lengths[position] for position in row) for row in pack_best_fit(lengths, 50))
    assert len(fills) < 2 or fills[0] + fills[1] > 50


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=40),
    pack=st.sampled_from(list(PACKINGS.values())),
)
def test_unpacking_gives_the_samples_back(lengths, pack):
    samples = [
        RenderedSample(np.full(length, k, np.int32), np.ones(length, np.bool_), "s", k)
        for k, length in enumerate(lengths)
    ]
    batch = collate([tuple(samples[k] for k in row) for row in pack(lengths, 12)])
    borders = batch.cu_seq_lens.tolist()
    pieces = [batch.input_ids[0, a:b].tolist() for a, b in pairwise(borders)]
    assert sorted(pieces) == sorted(sample.input_ids.tolist() for sample in samples)
    assert sorted(batch.sample_ids) == sorted(sample.sample_id for sample in samples)


@EITHER
def test_rows_are_almost_full_on_lengths_as_in_grade_school_maths(pack):
    draw = random.Random(0)
    lengths = [min(600, max(60, int(draw.gauss(189, 70)))) for _ in range(1024)]
    rows = pack(lengths, 2048)
    assert sum(lengths) / (len(rows) * 2048) >= 0.97


def test_best_fit_takes_the_fullest_row_with_room():
    assert sorted(pack_best_fit([3, 8, 9, 2, 1], 10)) == [[0], [1, 3], [2, 4]]
    assert sorted(pack_best_fit([1, 2, 3, 8, 9], 10)) == [[0, 4], [1, 3], [2]]


def test_the_knapsack_takes_what_megatron_takes():
    lengths = list(range(1, 9))
    rows = sorted(([lengths[k] for k in row] for row in pack_knapsack(lengths, 10)), key=max, reverse=True)
    assert rows == [[2, 8], [3, 7], [4, 6], [1, 5]]
    assert sorted(pack_knapsack([5, 5, 5], 10)) == [[0], [1, 2]]


@EITHER
def test_the_first_rows_of_a_window_have_no_more_short_samples_than_the_others(pack):
    draw = random.Random(0)
    lengths = [draw.choice([5, 40]) for _ in range(4096)]
    rows = pack(lengths, 50)
    shorts = [sum(lengths[k] == 5 for k in row) for row in rows]
    quarter = len(rows) // 4
    means = [sum(shorts[start : start + quarter]) / quarter for start in range(0, 4 * quarter, quarter)]
    assert max(means) - min(means) < 0.35 * sum(means) / 4
