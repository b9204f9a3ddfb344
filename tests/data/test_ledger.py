import json

import numpy as np
import pytest

from vlmforge.data.bad import LeftOut
from vlmforge.data.ledger import Ledger
from vlmforge.data.sample import RenderedSample
from vlmforge.errors import DataError


def sample(source, length=4, was_truncated=False):
    marks = np.array([False] * (length - 1) + [True])
    return RenderedSample(np.zeros(length, np.int32), marks, source, 0, was_truncated)


def left_out(source, index, kind="empty"):
    return LeftOut(source, index, kind, "file.jsonl:1", "text is empty")


def test_counts_and_shares_by_source():
    ledger = Ledger()
    for source, length in (("a", 4), ("a", 6), ("b", 5)):
        ledger.count_sample(sample(source, length, was_truncated=length == 6))
    ledger.count_left_out(left_out("b", 3, "too_long"))
    ledger.count_left_out(left_out("b", 7))
    state = ledger.as_dict()
    assert state["sources"]["a"] == {
        "samples": 2, "tokens": 10, "label_tokens": 2, "dropped": 0, "truncated": 1, "bad": 0, "shrunk": 0,
        "share": 2 / 3, "token_share": 2 / 3, "bad_kinds": {},
    }  # fmt: skip
    assert (state["sources"]["b"]["dropped"], state["sources"]["b"]["bad"]) == (1, 1)
    assert state["sources"]["b"]["bad_kinds"] == {"empty": 1}
    assert state["bad_ids"] == ["b#7"]


def test_a_ledger_comes_back_from_json_and_goes_on():
    ledger = Ledger()
    ledger.count_sample(sample("a"))
    ledger.count_left_out(left_out("a", 1))
    again = Ledger.from_dict(json.loads(json.dumps(ledger.as_dict())))
    again.add(ledger)
    assert again.sources["a"].samples == again.sources["a"].bad == again.bad_kinds["a"]["empty"] == 2


def test_too_many_bad_samples_stop_the_run_with_the_first_of_them():
    ledger = Ledger()
    for index in range(12):
        ledger.count_left_out(left_out("a", index))
    with pytest.raises(DataError, match=r"12 of 12 samples are bad, more than data.max_bad_ratio = 0.01") as caught:
        ledger.check_bad_ratio(0.01, num_rows=1100)
    assert caught.value.problems[0].where.startswith("data.train: samples a#0, a#1,")
    assert caught.value.problems[0].where.endswith("a#9, ... (12 empty)")


def test_one_bad_sample_early_does_not_stop_a_long_run():
    ledger = Ledger()
    ledger.count_left_out(left_out("a", 0))
    ledger.check_bad_ratio(0.01, num_rows=5000)
    with pytest.raises(DataError):
        ledger.check_bad_ratio(0.01, num_rows=20)


def test_bad_samples_are_told_in_the_same_order_whoever_finds_them_first():
    orders = ([("b", 2), ("a", 10), ("a", 9)], [("a", 9), ("a", 10), ("b", 2)])
    told = []
    for order in orders:
        run, step = Ledger(), Ledger()
        for source, index in order:
            step.count_left_out(left_out(source, index))
        for _ in range(2):  # a second epoch brings the same ones
            run.add(step)
        told.append((run.as_dict()["bad_ids"], [sample.index for sample in step.left_out]))
    assert told == [(["a#9", "a#10", "b#2"], [9, 10, 2])] * 2
