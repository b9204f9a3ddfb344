import sys
from types import SimpleNamespace

import pytest

from vlmforge.observe import trackers
from vlmforge.observe.trackers import TensorBoardTracker, build_trackers, select_numbers


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(trackers, "is_installed", lambda package: False)


def read_scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_is_the_default_where_it_is_installed(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is optional")
    [tracker] = build_trackers(None, tmp_path, "run", {})
    tracker.close()
    assert isinstance(tracker, TensorBoardTracker)


def test_without_tensorboard_the_default_is_none(tmp_path, nothing_installed):
    assert build_trackers(None, tmp_path, "run", {}) == []


def test_an_empty_list_means_none(tmp_path):
    assert build_trackers([], tmp_path, "run", {}) == []


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is optional")
    [tracker] = build_trackers(["tensorboard", "tensorboard"], tmp_path, "run", {"stage": {"kind": "sft"}})
    tracker.log({"step": 1, "loss": 2.5, "validation_loss": None}, 1)
    tracker.log({"step": 2, "loss": 1.5, "validation_loss": 2.0}, 2)
    tracker.close()
    assert read_scalars(tmp_path / "tensorboard") == {
        "loss": [(1, 2.5), (2, 1.5)],
        "validation_loss": [(2, 2.0)],
    }


def test_a_resumed_run_hides_the_steps_it_does_again(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is optional")
    for resumed_step, loss in ((0, 1.0), (2, 5.0)):
        [tracker] = build_trackers(["tensorboard"], tmp_path, "run", {}, resumed_step=resumed_step)
        for step in range(resumed_step + 1, 5):
            tracker.log({"loss": loss}, step)
        tracker.close()
    assert read_scalars(tmp_path / "tensorboard")["loss"] == [(1, 1.0), (2, 1.0), (3, 5.0), (4, 5.0)]


def test_wandb_gets_name_recipe_and_numbers(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(
        log=lambda numbers, step: calls.append(("log", numbers, step)), finish=lambda: calls.append("finish")
    )
    fake = SimpleNamespace(init=lambda **settings: calls.append(settings) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    [tracker] = build_trackers(["wandb"], tmp_path, "run", {"a": 1})
    tracker.log({"step": 7, "loss": 1.0}, 7)
    tracker.close()
    assert calls == [
        {"project": "mine", "name": "run", "dir": str(tmp_path), "config": {"a": 1}},
        ("log", {"loss": 1.0}, 7),
        "finish",
    ]


def test_only_numbers_are_tracked():
    record = {"step": 1, "loss": 1.0, "num_tokens": 5, "is_last": True, "note": "x", "validation_loss": None}
    assert select_numbers(record) == {"loss": 1.0, "num_tokens": 5}
