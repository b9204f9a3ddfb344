import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmforge.config.schema import SourceConfig
from vlmforge.data.held_out import ValidationLoader, validation_samples
from vlmforge.data.loader import build_train_loader, num_steps
from vlmforge.data.window import WindowCut, build_train_windows
from vlmforge.errors import DataError

SOURCES = (
    SourceConfig(path=("builtin:dates",), format="prompt_response", rows=(0, 50)),
    SourceConfig(path=("builtin:messages",), format="messages", rows=(0, 21)),
)
PACKINGS = pytest.mark.parametrize("packing", ["none", "best_fit", "knapsack"])


def config_of(make_config, packing, *sources, **keys):
    return make_config(*(sources or SOURCES), packing=packing, packing_window=16, global_batch_size=4, **keys)


def samples_of(batch):
    """Sample id, ids and labels of every sample of a micro-batch."""
    borders = batch.cu_seq_lens.tolist()
    return [
        (sample_id, batch.input_ids[0, a:b].tolist(), batch.labels[0, a:b].tolist())
        for sample_id, a, b in zip(batch.sample_ids, borders, borders[1:], strict=False)
    ]


def run_steps(config, tokenizer, num_data_ranks=1, grad_accum_steps=1, state=None):
    """Every step's samples put together over ranks and micro-batches, with the place after it."""
    loaders = [
        iter(build_train_loader(config, tokenizer, rank, num_data_ranks, grad_accum_steps, state))
        for rank in range(num_data_ranks)
    ]
    for steps in zip(*loaders, strict=True):
        # Ranks that run different numbers of collectives wait for each other for ever.
        assert len({len(step.micro_batches) for step in steps} | ({grad_accum_steps} - {None})) == 1
        batches = [batch for step in steps for batch in step.micro_batches]
        if grad_accum_steps is None:
            assert max(batch.num_tokens for batch in batches) <= config.stage.max_tokens_per_micro_batch
        found = sorted(sample for batch in batches for sample in samples_of(batch))
        assert all(tuple(sample_id for sample_id, *_ in found) == step.sample_ids for step in steps)
        counts = steps[0].ledger.sources.values()
        assert sum(batch.num_tokens for batch in batches) == sum(source.tokens for source in counts)
        assert sum(batch.num_label_tokens for batch in batches) == sum(source.label_tokens for source in counts)
        yield found, steps[-1].state


@PACKINGS
def test_one_epoch_trains_every_sample_once(make_config, chatml, packing):
    config = config_of(make_config, packing)
    seen = [sample[0] for found, _ in run_steps(config, chatml) for sample in found]
    assert sorted(seen) == sorted([f"dates#{k}" for k in range(50)] + [f"messages#{k}" for k in range(21)])


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 40), unit=st.integers(1, 40), num_samples=st.integers(1, 200))
def test_windows_are_all_samples_in_order_and_none_reaches_into_the_next_epoch(size, unit, num_samples):
    cut = WindowCut(size, unit, num_samples)
    windows = [cut.numbers(number) for number in range(cut.num_windows)]
    assert [n for window in windows for n in window] == list(range(num_samples))
    assert all(window[0] // unit == window[-1] // unit and len(window) <= size for window in windows)


@pytest.mark.parametrize("packing", ["best_fit", "knapsack"])
@pytest.mark.parametrize("sources", [SOURCES, SOURCES[:1]])
def test_packed_rows_come_epoch_by_epoch(make_config, chatml, packing, sources):
    # A window would hold fourteen epochs, or twenty.
    config = make_config(*sources, packing=packing, packing_window=1024, max_epochs=2.5)
    windows = list(build_train_windows(config, chatml).make_all())
    total = sum(source.rows[1] for source in sources)
    names = [[sample.sample_id for row in window.rows for sample in row] for window in windows]
    assert [len(window) for window in names] == [total, total, -(-total // 2)]
    assert all(len(set(window)) == len(window) for window in names)


@PACKINGS
def test_steps_are_counted_as_they_come(make_config, chatml, packing):
    config = config_of(make_config, packing, max_epochs=1.3)
    assert num_steps(config, chatml) == len(list(run_steps(config, chatml)))
    assert num_steps(config_of(make_config, packing, max_epochs=1.3, max_steps=2), chatml) == 2
    assert num_steps(config_of(make_config, packing, max_epochs=None, max_steps=99), chatml) == 99


def test_a_limit_that_hardly_a_sample_keeps_is_told_before_a_model_is_loaded(make_config, chatml):
    config = config_of(make_config, "best_fit", max_epochs=None, max_steps=9)
    with pytest.raises(DataError, match=r"more than stage\.seq_len = 16"):
        num_steps(replace(config, stage=replace(config.stage, seq_len=16)), chatml)


@PACKINGS
@pytest.mark.parametrize(("ranks", "accum"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_the_samples_of_a_step_do_not_depend_on_how_it_is_cut(make_config, chatml, packing, ranks, accum):
    config = config_of(make_config, packing)
    assert list(run_steps(config, chatml, ranks, accum)) == list(run_steps(config, chatml))


@PACKINGS
def test_a_run_goes_on_from_any_step_with_other_ranks(make_config, chatml, packing):
    config = config_of(make_config, packing, max_epochs=2.0)
    whole = list(run_steps(config, chatml))

    @settings(max_examples=12, deadline=None)
    @given(stop=st.integers(0, 6), ranks=st.sampled_from([1, 2, 4]), accum=st.sampled_from([1, 2]))
    def check(stop, ranks, accum):
        assert list(run_steps(config, chatml, ranks, accum, state_after(whole, stop))) == whole[stop:]

    check()


def state_after(steps, stop):
    """What a checkpoint after so many steps says of the place in the data."""
    return None if stop == 0 else json.loads(json.dumps(steps[min(stop, len(steps)) - 1][1]))


def test_a_run_goes_on_with_micro_batches_cut_by_tokens(make_config, chatml):
    whole = list(run_steps(config_of(make_config, "none"), chatml))

    @settings(max_examples=12, deadline=None)
    @given(stop=st.integers(0, 6), ranks=st.integers(1, 4), cap=st.sampled_from([256, 400, 2000]))
    def check(stop, ranks, cap):
        by_tokens = config_of(make_config, "none", max_tokens_per_micro_batch=cap)
        assert list(run_steps(by_tokens, chatml, ranks, None, state_after(whole, stop))) == whole[stop:]

    check()


@PACKINGS
def test_worker_processes_make_the_same_steps(make_config, chatml, packing):
    config = config_of(make_config, packing)
    with_workers = config_of(make_config, packing, data={"num_workers": 2})
    whole = list(run_steps(config, chatml))
    assert list(run_steps(with_workers, chatml)) == whole
    assert list(run_steps(with_workers, chatml, 2, 1, whole[1][1])) == whole[2:]


@PACKINGS
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_row_stops_the_run_with_its_line(make_config, chatml, write_jsonl, pairs, packing, num_workers):
    rows = [{"prompt": "q", "response": "a"}] * 5 + [{"prompt": "q"}]
    path = write_jsonl("a.jsonl", rows)
    config = config_of(make_config, packing, pairs(path), data={"shuffle": False, "num_workers": num_workers})
    with pytest.raises(DataError, match="column response is absent") as caught:
        list(run_steps(config, chatml))
    assert caught.value.problems[0].where == f"{path}:6 (sample a#5)"


@PACKINGS
def test_left_out_samples_are_holes_and_are_counted(make_config, chatml, write_jsonl, pairs, packing):
    rows = [{"prompt": "q", "response": "a " * (500 if k == 3 else 1)} for k in range(10)] + [{"prompt": "q"}]
    data = {"shuffle": False, "on_bad_sample": "skip", "on_too_long": "drop"}
    config = config_of(make_config, packing, pairs(write_jsonl("a.jsonl", rows)), data=data)
    steps = list(build_train_loader(config, chatml, 0, 1, 1))
    ids = [sample_id for step in steps for sample_id in step.sample_ids]
    assert sorted(ids) == sorted(f"a#{k}" for k in range(10) if k != 3)
    if packing == "none":
        assert [len(step.sample_ids) for step in steps] == [3, 4, 2]
    counts = [step.ledger.sources["a"] for step in steps]
    assert (sum(c.dropped for c in counts), sum(c.bad for c in counts), sum(c.samples for c in counts)) == (1, 1, 9)


def test_what_is_left_out_behind_the_last_full_step_is_counted(make_config, chatml, write_jsonl, pairs):
    # A window of sixteen samples, of which each needs a row of its own, and one of holes only.
    rows = [{"prompt": "q", "response": "a " * (60 if k < 16 else 500)} for k in range(20)]
    path = write_jsonl("a.jsonl", rows)
    config = config_of(
        make_config, "best_fit", pairs(path), seq_len=200, data={"shuffle": False, "on_too_long": "drop"}
    )
    steps = list(build_train_loader(config, chatml, 0, 1, 1))
    assert [step.ledger.sources["a"].samples for step in steps] == [4] * 4
    assert [step.ledger.sources["a"].dropped for step in steps] == [0, 0, 0, 4]
    assert len(steps) == num_steps(config, chatml)
    # What stops the run comes after the steps before it.
    strict = replace(config, data=replace(config.data, on_too_long="error"))
    again = iter(build_train_loader(strict, chatml, 0, 1, 1))
    assert [next(again).sample_ids for _ in steps] == [step.sample_ids for step in steps]
    with pytest.raises(DataError, match=r"more than stage\.seq_len = 200"):
        next(again)


def test_a_cut_sample_is_counted(make_config, chatml, write_jsonl, pairs):
    path = write_jsonl("a.jsonl", [{"prompt": "q", "response": "a " * 500}])
    config = config_of(make_config, "none", pairs(path), data={"on_too_long": "truncate"})
    (step,) = build_train_loader(config, chatml, 0, 1, 1)
    assert step.ledger.sources["a"].truncated == 1
    assert step.micro_batches[0].num_tokens == config.stage.seq_len


def test_data_of_which_nothing_is_left_is_an_error(make_config, chatml, write_jsonl, pairs):
    path = write_jsonl("a.jsonl", [{"prompt": "q", "response": "a " * 500}])
    config = config_of(make_config, "best_fit", pairs(path), data={"on_too_long": "drop"})
    with pytest.raises(
        DataError, match=r"every one is left out; of a#0, the sample has \d+ tokens, more than"
    ) as caught:
        num_steps(config, chatml)
    assert caught.value.problems[0].where.startswith(f"{path}:1")


@PACKINGS
def test_packed_rows_fit_and_samples_are_whole(make_config, chatml, packing):
    for step in build_train_loader(config_of(make_config, packing), chatml, 0, 1, 4):
        for batch in step.micro_batches:
            assert batch.num_tokens <= 256
            assert np.all(np.diff(batch.cu_seq_lens.numpy()) > 0)


@pytest.mark.parametrize(
    "cut",
    [
        {"packing": "none", "micro_batch_size": 2},
        {"packing": "best_fit", "micro_batch_size": 2},
        {"packing": "none", "max_tokens_per_micro_batch": 300, "packing_window": 32},
    ],
)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_validation_is_seen_once_with_equally_many_batches_on_every_rank(make_config, chatml, cut, ranks):
    made = make_config(*SOURCES, **cut, data={"validation": SOURCES})
    batches = [list(ValidationLoader(made, chatml, rank, ranks)) for rank in range(ranks)]
    assert len({len(mine) for mine in batches}) == 1
    limit = made.stage.max_tokens_per_micro_batch or 2 * made.stage.seq_len
    assert max(batch.num_tokens for mine in batches for batch in mine) <= limit
    seen = [sample_id for mine in batches for batch in mine for sample_id in batch.sample_ids]
    assert sorted(seen) == sorted([f"dates#{k}" for k in range(50)] + [f"messages#{k}" for k in range(21)])


def test_tasks_get_the_first_samples_in_file_order(make_config):
    made = make_config(*SOURCES, data={"validation": SOURCES})
    assert [sample.sample_id for sample in validation_samples(made, 3)] == ["dates#0", "dates#1", "dates#2"]
    assert len(validation_samples(made, None)) == 71
    assert len(validation_samples(made, 60)) == 60


@PACKINGS
def test_an_epoch_without_a_single_row_ends_the_training(make_config, chatml, packing):
    config = config_of(make_config, packing, seq_len=8, data={"on_too_long": "drop"}, max_epochs=None, max_steps=99)
    with pytest.raises(DataError, match="no sample of data"):
        list(run_steps(config, chatml))
