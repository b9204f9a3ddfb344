"""Packing: which samples of a window share a row.

Best fit, longest first: each sample goes to the fullest row that still has room. Nothing is cut and nothing
is lost. The result depends on the window's lengths only.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def pack_best_fit(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Distribute samples over rows of at most `seq_len` tokens.

    Args:
        lengths: tokens of each sample, each in [1, seq_len].
        seq_len: tokens that fit into a row.

    Returns:
        The positions of the samples of each row, ascending; rows in the order of their first sample. Rows are
        not left in the order they were filled, or a window would begin with its longest samples.
    """
    assert all(0 < length <= seq_len for length in lengths), "a sample that no row can hold"
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), ascending: the fullest row with room is the next above
    for position in sorted(range(len(lengths)), key=lambda position: (-lengths[position], position)):
        length = lengths[position]
        at = bisect.bisect_left(room, (length, -1))
        if at == len(room):
            free, row = seq_len, len(rows)
            rows.append([])
        else:
            free, row = room.pop(at)
        rows[row].append(position)
        bisect.insort(room, (free - length, row))
    return sorted(sorted(row) for row in rows)
