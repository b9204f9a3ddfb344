"""What is handed out is handed out once, and about evenly."""

from hypothesis import given
from hypothesis import strategies as st

from vlmforge.parallel.spread import spread


@given(lengths=st.lists(st.integers(0, 100), max_size=30), num_hands=st.integers(1, 6))
def test_hands_differ_by_no_more_than_the_longest(lengths: list[int], num_hands: int) -> None:
    hands = spread(lengths, num_hands)
    assert len(hands) == num_hands
    assert sorted(position for hand in hands for position in hand) == list(range(len(lengths)))
    sums = [sum(lengths[position] for position in hand) for hand in hands]
    assert max(sums) - min(sums) <= max(lengths, default=0)
