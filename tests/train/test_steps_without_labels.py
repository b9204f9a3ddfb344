"""Steps whose samples are all left out: they have no loss, and the run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.support.runs import RECIPE, column

from vlmforge.cli import main

EXACT = ("step", "loss", "grad_norm", "lr", "num_tokens", "num_label_tokens")
GOOD, BAD = {"prompt": "What is it?", "response": "a square"}, {"prompt": "What is it?"}


@pytest.fixture
def rows(here: Path) -> Path:
    """Steps of two rows; of the first and the last step both are bad."""
    recipe = yaml.safe_load(RECIPE)
    recipe["data"] = {"train": [{"path": "rows.jsonl", "format": "prompt_response"}], "shuffle": False}
    recipe["data"] |= {"on_bad_sample": "skip", "max_bad_ratio": 1.0}
    recipe["stage"] |= {"packing": "none", "global_batch_size": 2, "max_steps": 3}
    del recipe["stage"]["packing_window"]
    recipe["checkpointing"] = {"export": "never"}
    (here / "rows.yaml").write_text(yaml.safe_dump(recipe))
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (BAD, BAD, GOOD, GOOD, BAD, BAD)))
    return here


def train(name: str, *words: str) -> int:
    return main(["train", "recipe=rows.yaml", f"run.name={name}", *words])


def test_a_step_without_a_label_has_no_loss(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("whole") == 0
    said = capsys.readouterr().out
    losses = [loss for (loss,) in column(rows / "runs/whole", "loss")]
    assert (losses[0], losses[2]) == (None, None)
    assert losses[1] > 1
    assert "step 1/3  no labels  lr" in said
    assert f"step 2/3  loss {losses[1]:.4f}  lr" in said
    assert f"\nloss {losses[1]:.4f} at step 2, {losses[1]:.4f} at step 2; curve in" in said
    assert "loss 0.0000" not in said


@pytest.mark.slow
def test_a_run_goes_on_from_a_step_without_a_label(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("whole") == 0
    for stop in (1, 2, 3):
        assert train("parts", f"run.stop_after_steps={stop}") == 0
    assert column(rows / "runs/parts", *EXACT) == column(rows / "runs/whole", *EXACT)
    capsys.readouterr()
    assert train("none", "stage.max_steps=1", "stage.schedule.warmup_steps=0") == 0
    assert "no step had a label, so there is no loss to show" in capsys.readouterr().out
    assert not (rows / "runs/none/loss.png").exists()
