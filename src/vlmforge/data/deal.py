"""Dealing: which rows of a global batch go to which data rank and micro-batch.

The rows of a step are settled before; dealing them is the only thing that depends on ranks. Every rank deals for all
ranks and keeps its own hands, so that all agree on the number of micro-batches without a word. Hands are made equally
long, because ranks wait for each other in every micro-batch.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from vlmforge.data.pack import longest_first, pack_best_fit
from vlmforge.data.sample import Row, count_row_tokens


def deal(
    rows: Sequence[Row], data_rank: int, num_data_ranks: int, num_micro_batches: int | None, max_tokens: int | None
) -> list[list[Row]]:
    """The rows of each micro-batch of one data rank, as the recipe cuts a step: by rows, or else by tokens.

    Args:
        rows: of the step.
        data_rank: which rank.
        num_data_ranks: how many there are.
        num_micro_batches: micro-batches of a step on every rank; None: as many as `max_tokens` needs.
        max_tokens: `stage.max_tokens_per_micro_batch`.
    """
    if num_micro_batches is not None:
        return deal_rows(rows, data_rank, num_data_ranks, num_micro_batches)
    assert max_tokens is not None, "micro-batches are cut by rows or by tokens"
    return deal_by_tokens(rows, data_rank, num_data_ranks, max_tokens)


def deal_rows(rows: Sequence[Row], data_rank: int, num_data_ranks: int, num_micro_batches: int) -> list[list[Row]]:
    """The rows of each micro-batch of one data rank: longest first, back and forth over the hands.

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
    by_length = longest_first([count_row_tokens(row) for row in rows])
    for turn, k in enumerate(by_length):
        lap, place = divmod(turn, num_hands)
        hands[place if lap % 2 == 0 else num_hands - 1 - place].append(k)
    mine = hands[data_rank::num_data_ranks]
    return [[rows[k] for k in sorted(hand)] for hand in mine]


def deal_by_tokens(rows: Sequence[Row], data_rank: int, num_data_ranks: int, max_tokens: int) -> list[list[Row]]:
    """The rows of each micro-batch of one data rank, as few micro-batches as best fit finds.

    Args:
        rows: any number, none of them longer than `max_tokens`.
        data_rank: which rank.
        num_data_ranks: how many there are.
        max_tokens: that no micro-batch exceeds.

    Returns:
        At least one list, equally many on every rank; lists are empty where rows do not suffice.
    """
    lengths = [count_row_tokens(row) for row in rows]
    full = pack_best_fit(lengths, max_tokens)
    num_hands = max(1, math.ceil(len(full) / num_data_ranks)) * num_data_ranks
    hands = _spread(lengths, num_hands)
    if max(_tokens(hand, lengths) for hand in hands) > max_tokens:
        # Equal hands are too long where lengths hardly fit together; the full ones hold, and need no more hands.
        hands = full + [[] for _ in range(num_hands - len(full))]
    # Those of about one length in the same micro-batch, and no rank always with the longest.
    hands.sort(key=lambda hand: (-_tokens(hand, lengths), hand))
    laps = [hands[start : start + num_data_ranks] for start in range(0, num_hands, num_data_ranks)]
    mine = [lap[data_rank if number % 2 == 0 else -1 - data_rank] for number, lap in enumerate(laps)]
    return [[rows[k] for k in sorted(hand)] for hand in mine]


def _spread(lengths: Sequence[int], num_hands: int) -> list[list[int]]:
    """Rows over hands of about equally many tokens: longest first, each to the hand with the fewest."""
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    fewest = [(0, number) for number in range(num_hands)]
    for k in longest_first(lengths):
        tokens, number = fewest[0]
        hands[number].append(k)
        heapq.heapreplace(fewest, (tokens + lengths[k], number))
    return hands


def _tokens(hand: Sequence[int], lengths: Sequence[int]) -> int:
    return sum(lengths[k] for k in hand)
