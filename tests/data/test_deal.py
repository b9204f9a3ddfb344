import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmforge.data.deal import deal_by_tokens
from vlmforge.data.sample import RenderedSample, count_row_tokens


def rows_of(lengths):
    return [(RenderedSample(np.zeros(n, np.int32), np.ones(n, bool), "s", k),) for k, n in enumerate(lengths)]


def deal(lengths, num_data_ranks, max_tokens):
    """Token counts of every micro-batch of every rank, and the rows that were dealt."""
    rows = rows_of(lengths)
    hands = [deal_by_tokens(rows, rank, num_data_ranks, max_tokens) for rank in range(num_data_ranks)]
    tokens = [[sum(map(count_row_tokens, hand)) for hand in mine] for mine in hands]
    return tokens, [row[0].index for mine in hands for hand in mine for row in hand]


@given(
    lengths=st.lists(st.integers(1, 50), max_size=40),
    num_data_ranks=st.integers(1, 5),
    max_tokens=st.integers(50, 120),
)
def test_the_cap_holds_and_every_row_is_dealt_once_in_equally_many_micro_batches(lengths, num_data_ranks, max_tokens):
    tokens, dealt = deal(lengths, num_data_ranks, max_tokens)
    assert sorted(dealt) == list(range(len(lengths)))
    assert len({len(mine) for mine in tokens}) == 1
    assert max(count for mine in tokens for count in mine) <= max_tokens
    # Two bins of any fit that is not the last hold more than one bin's worth together.
    assert (len(tokens[0]) - 1) * num_data_ranks * max_tokens <= 2 * sum(lengths)


@pytest.mark.parametrize(
    ("lengths", "num_data_ranks", "max_tokens", "expected"),
    [
        ([10, 10, 10, 10], 1, 40, [[40]]),
        # One long row among many short ones does not multiply the micro-batches, as equally many rows a hand would.
        ([100, *[1] * 60], 1, 100, [[100, 60]]),
        # Ranks share what one could take alone.
        ([10, 10, 10, 10], 2, 40, [[20], [20]]),
        # Those of one length meet in the same micro-batch, and the longer ones take turns.
        ([9, 8, 7, 6], 2, 9, [[9, 6], [8, 7]]),
        # Longest first to the shortest hand would give 8 + 3 + 2 = 13; best fit keeps two, and says how: 8 + 4.
        ([8, 7, 4, 3, 2], 1, 12, [[12, 12]]),
        ([8, 7, 4, 3, 2], 2, 12, [[12], [12]]),
        ([10], 2, 10, [[10], [0]]),
        ([], 2, 10, [[0], [0]]),
    ],
)
def test_few_and_even_micro_batches(lengths, num_data_ranks, max_tokens, expected):
    assert deal(lengths, num_data_ranks, max_tokens)[0] == expected
