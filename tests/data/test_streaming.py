"""Sources that cannot seek, alone and in a blend: the same batches from the state of any step."""

import json

import datasets
import pytest

from vlmforge.config.schema import SourceConfig
from vlmforge.data.loader import build_train_loader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "rows"
    rows = [{"prompt": f"question {k}", "response": "a " * (k % 7 + 1)} for k in range(23)]
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return str(path)


def streamed(folder, **keys):
    return SourceConfig(path=(folder,), format="prompt_response", streaming=True, **keys)


def steps_of(config, tokenizer, state=None, rank=0, num_ranks=1):
    loader = build_train_loader(config, tokenizer, rank, num_ranks, 1, state)
    return [(step.sample_ids, step.state) for step, _ in zip(loader, range(9), strict=False)]


@pytest.mark.parametrize("packing", ["none", "best_fit"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stream_goes_on_from_the_state_of_any_step(make_config, chatml, folder, packing, num_workers):
    dates = SourceConfig(path=("builtin:dates",), format="prompt_response", rows=(0, 20), weight=1.0)
    config = make_config(
        streamed(folder, weight=2.0),
        dates,
        packing=packing,
        packing_window=8,
        global_batch_size=4,
        max_epochs=None,
        max_steps=99,
        data={"num_workers": num_workers},
    )
    whole = steps_of(config, chatml)
    assert sum(sample.startswith("rows#") for ids, _ in whole for sample in ids) > 23
    for stop in (1, 4):
        state = json.loads(json.dumps(whole[stop - 1][1]))
        assert steps_of(config, chatml, state)[: 9 - stop] == whole[stop:]


def test_a_stream_comes_in_its_own_order_and_starts_again(make_config, chatml, folder):
    config = make_config(streamed(folder), global_batch_size=5, max_epochs=None, max_steps=99)
    ids = [sorted(sample_ids) for sample_ids, _ in steps_of(config, chatml)]
    assert ids == [sorted(f"rows#{n % 23}" for n in range(start, start + 5)) for start in range(0, 45, 5)]


def test_every_rank_reads_the_same_rows(make_config, chatml, folder):
    config = make_config(streamed(folder), global_batch_size=4, max_epochs=None, max_steps=99)
    assert steps_of(config, chatml, None, 0, 2) == steps_of(config, chatml, None, 1, 2)
