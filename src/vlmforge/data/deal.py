"""Dealing: which rows of a global batch go to which data rank and micro-batch.

The rows of a step are settled before; dealing them is the only thing that depends on ranks. Longest first and
back and forth over the hands, so that ranks which wait for each other have about equally much to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmforge.data.sample import Row, count_row_tokens


def deal_rows(rows: Sequence[Row], data_rank: int, num_data_ranks: int, num_micro_batches: int) -> list[list[Row]]:
    """The rows of each micro-batch of one data rank.

    Args:
        rows: at most `micro_batch_size x num_data_ranks x num_micro_batches` rows.
        data_rank: which rank.
        num_data_ranks: how many there are.
        num_micro_batches: micro-batches of a step on every rank.

    Returns:
        `num_micro_batches` lists, some of them empty if there are few rows; no list is longer than the number
        of rows divided by the number of hands, rounded up.
    """
    num_hands = num_data_ranks * num_micro_batches
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    by_length = sorted(range(len(rows)), key=lambda k: (-count_row_tokens(rows[k]), k))
    for turn, k in enumerate(by_length):
        lap, place = divmod(turn, num_hands)
        hands[place if lap % 2 == 0 else num_hands - 1 - place].append(k)
    mine = hands[data_rank::num_data_ranks]
    return [[rows[k] for k in sorted(hand)] for hand in mine]
