"""Who gets what, so that all have about equally much."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Positions of the lengths; of equal ones the first comes first."""
    return sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))


def spread(lengths: Sequence[int], num_hands: int) -> list[list[int]]:
    """Positions over hands of about equal sums: the longest first, each to the hand with the least.

    Args:
        lengths: of what is handed out.
        num_hands: to how many.

    Returns:
        Of each hand, in the order in which it got them; some are empty if there are few.
    """
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    least = [(0, number) for number in range(num_hands)]
    for position in longest_first(lengths):
        total, number = least[0]
        hands[number].append(position)
        heapq.heapreplace(least, (total + lengths[position], number))
    return hands
