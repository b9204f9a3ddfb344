"""Packing: which samples of a window share a row.

Nothing is cut and nothing is lost. The result depends on the window's lengths only. The rows of a window are put in an
order that has nothing to do with how they were filled: else rows of many short samples would come first or last, and
with them the sources that have short samples.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence

from vlmforge.data.blend import permute

Pack = Callable[[Sequence[int], int], list[list[int]]]


def pack_best_fit(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Distribute samples over rows of at most `seq_len` tokens: longest first, each to the fullest row with room.

    Args:
        lengths: tokens of each sample, each in [1, seq_len].
        seq_len: tokens that fit into a row.

    Returns:
        The positions of the samples of each row, ascending.
    """
    assert all(0 < length <= seq_len for length in lengths), "a sample that no row can hold"
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), ascending: the fullest row with room is the next above
    for position in longest_first(lengths):
        length = lengths[position]
        at = bisect.bisect_left(room, (length, -1))
        if at == len(room):
            free, row = seq_len, len(rows)
            rows.append([])
        else:
            free, row = room.pop(at)
        rows[row].append(position)
        bisect.insort(room, (free - length, row))
    return _in_order(rows)


def pack_knapsack(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Fill one row after the other, each time with the longest sample that still fits, of equal ones the last.

    As Megatron's task encoder of `examples/multimodal` does.

    Args:
        lengths: tokens of each sample, each in [1, seq_len].
        seq_len: tokens that fit into a row.

    Returns:
        The positions of the samples of each row, ascending.
    """
    assert all(0 < length <= seq_len for length in lengths), "a sample that no row can hold"
    left = sorted((length, position) for position, length in enumerate(lengths))
    rows: list[list[int]] = []
    while left:
        row, free = [], seq_len
        while (fits := bisect.bisect_right(left, (free, len(lengths)))) > 0:
            length, position = left.pop(fits - 1)
            row.append(position)
            free -= length
        rows.append(row)
    return _in_order(rows)


PACKINGS: Mapping[str, Pack] = {"best_fit": pack_best_fit, "knapsack": pack_knapsack}


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Positions of the lengths; of equal ones the first comes first."""
    return sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))


def _in_order(rows: Sequence[list[int]]) -> list[list[int]]:
    """Rows in a fixed order that looks like none, and each row ascending."""
    return [sorted(rows[permute(k, len(rows), "rows")]) for k in range(len(rows))]
