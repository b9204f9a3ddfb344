"""Turns that count by the square root of their length, against the rule of Megatron's script written out."""

import numpy as np
import pytest

from vlmforge.data.collate import collate
from vlmforge.data.sample import RenderedSample
from vlmforge.data.turns import weigh_turns


def sample(marks: str, index: int = 0) -> RenderedSample:
    is_label = np.array([mark == "x" for mark in marks])
    return RenderedSample(np.arange(len(marks), dtype=np.int32), is_label, "s", index, weighs_turns=True)


def test_turns_of_four_and_nine_tokens_count_two_to_three() -> None:
    weights = weigh_turns(np.array([mark == "x" for mark in "..xxxx...xxxxxxxxx."]))
    assert weights[2:6].tolist() == pytest.approx([2 / 4 / 5] * 4)
    assert weights[9:18].tolist() == pytest.approx([3 / 9 / 5] * 9)
    assert weights.sum() == pytest.approx(1.0)
    assert np.count_nonzero(weights) == 13


def test_the_weighted_sum_is_megatrons_mean_of_turns() -> None:
    marks = ".xx.xxxxx.x..xxxxxxx"
    losses = np.random.default_rng(0).uniform(1, 9, len(marks))
    turns = [losses[1:3], losses[4:9], losses[10:11], losses[13:20]]
    roots = [len(turn) ** 0.5 for turn in turns]
    expected = sum(turn.mean() * root for turn, root in zip(turns, roots, strict=True)) / sum(roots)
    assert (losses * weigh_turns(np.array([mark == "x" for mark in marks]))).sum() == pytest.approx(expected)


def test_neighbours_in_a_row_stay_apart_and_each_counts_one() -> None:
    # The first one's labels end where the second one's begin.
    batch = collate([(sample("..xx"), sample("xxxx.x", 1)), (sample(".x", 2),)])
    assert batch.loss_weights is not None
    assert batch.total_weight == 3
    assert batch.loss_weights.sum().item() == pytest.approx(3.0)
    # Nothing predicts a sample's first token, so the second one's turns have 3 and 1.
    three, one = 1 / (3**0.5 * (3**0.5 + 1)), 1 / (3**0.5 + 1)
    expected = [0, 0.5, 0.5, 0, three, three, three, 0, one, 0, 1, 0]
    assert batch.loss_weights[0].tolist() == pytest.approx(expected)
    assert ((batch.labels >= 0) == (batch.loss_weights > 0)).all()
