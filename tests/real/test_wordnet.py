"""The recipe that pretrains on WordNet, a few steps of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.assets import link_assets
from tests.support.runs import metrics

from vlmforge.cli import main

pytestmark = pytest.mark.real

SHORT = [
    "stage.max_steps=12",
    "stage.micro_batch_size=1",
    "stage.global_batch_size=1",
    "stage.packing_window=64",
    "stage.schedule.warmup_ratio=0",
    "data.validation.0.rows=[0,50]",
    "evaluate.every_steps=6",
    "checkpointing.export=never",
]


def test_a_dozen_steps_lower_the_loss_on_senses_that_are_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_assets(tmp_path, "smollm2", "wordnet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    recipe = ["recipe=smollm2/pretrain_wordnet", "model.tokenizer=assets/smollm2-135m-instruct"]
    assert main(["train", *recipe, *SHORT]) == 0
    run = tmp_path / "runs/smollm2-pretrain_wordnet"
    losses = [line["loss"] for line in metrics(run)]
    # Random weights know nothing: log(49,152) = 10.8.
    assert 10.6 < losses[0] < 11.1
    assert losses[-1] < losses[0] - 1.0
    held_out = [line["validation_loss"] for line in metrics(run) if "validation_loss" in line]
    assert len(held_out) == 2
    assert held_out[1] < held_out[0] < losses[0]
