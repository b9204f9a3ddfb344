"""What a run says of its data: held-out samples that are left out, and files that are not the same any more."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from tests.support.runs import RECIPE

from vlmforge.cli import main

pytestmark = pytest.mark.slow

GOOD = [{"prompt": f"What is {k}?", "response": str(k)} for k in range(8)]
LONG = {"prompt": "What?", "response": "a " * 200}


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def files(here: Path) -> Path:
    recipe = yaml.safe_load(RECIPE)
    source = {"format": "prompt_response"}
    recipe["data"] = {"train": [{"path": "a.jsonl"} | source], "validation": [{"path": "held.jsonl"} | source]}
    recipe["data"] |= {"on_too_long": "drop", "on_bad_sample": "skip", "max_bad_ratio": 0.2}
    recipe["stage"] |= {"seq_len": 128, "max_steps": 2, "schedule": {"name": "constant", "warmup_steps": 0}}
    recipe["evaluate"] = {"before": True}
    (here / "own.yaml").write_text(yaml.safe_dump(recipe))
    write_rows(here / "a.jsonl", GOOD)
    write_rows(here / "held.jsonl", [*GOOD[:4], LONG, {"prompt": "What?"}])
    return here


def train(*words: str) -> int:
    return main(["train", "recipe=own.yaml", *words])


def test_held_out_samples_that_are_left_out_are_told_and_changed_data_is_not_gone_on_with(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run.name=one", "run.stop_after_steps=1") == 0
    run = files / "runs/one"
    assert (
        "validation: held  100.0% of the samples, 100.0% of the tokens: 4 samples, 1 dropped, 1 bad (1 missing_column)"
        in (capsys.readouterr().out)
    )
    counts = json.loads((run / "ledger.json").read_text())["validation"]["sources"]["held"]
    assert (counts["samples"], counts["dropped"], counts["bad_kinds"]) == (4, 1, {"missing_column": 1})
    (line,) = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert (line["step"], line["blend"]) == (0, "validation")
    assert [sample["sample"] for sample in line["samples"]] == ["held#4", "held#5"]

    # A run that goes on keeps what it knows of held-out samples until it looks again.
    assert train("run.name=one", "run.stop_after_steps=1") == 0
    assert json.loads((run / "ledger.json").read_text())["validation"]["sources"]["held"] == counts
    capsys.readouterr()

    write_rows(files / "a.jsonl", [*GOOD, GOOD[0]])
    assert train("run.name=one") == 4
    report = capsys.readouterr().err
    assert f"source a: {files}/a.jsonl: size_bytes is" in report or "source a: a.jsonl: size_bytes is" in report
    assert "run.name=one-2" in report
    write_rows(files / "a.jsonl", GOOD[::-1])
    assert train("run.name=one") == 4
    assert "a.jsonl: its content is another" in capsys.readouterr().err
    # The same content, written anew and elsewhere.
    write_rows(files / "elsewhere.jsonl", GOOD)
    (files / "a.jsonl").unlink()
    os.symlink("elsewhere.jsonl", files / "a.jsonl")
    assert train("run.name=one") == 0
    # Looked at again, and nothing new was found.
    assert (run / "bad_samples.jsonl").read_text().count("\n") == 1


def test_too_few_held_out_samples_stop_the_run(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run.name=two", "data.max_bad_ratio=0.1") == 3
    report = capsys.readouterr().err
    assert "1 of 6 samples are bad, more than data.max_bad_ratio = 0.1" in report
    assert "where: data.validation: samples held#5 (1 missing_column)" in report
    write_rows(files / "long.jsonl", [LONG])
    assert train("run.name=three", "data.validation=[{path: long.jsonl, format: prompt_response}]") == 3
    assert "no label token of data.validation is left" in capsys.readouterr().err


def test_a_run_that_a_bad_sample_stops_goes_on_without_it(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(files / "a.jsonl", [*GOOD, {"prompt": "What?"}, *GOOD])
    write_rows(files / "held.jsonl", GOOD[:4])
    words = ["data.shuffle=false", "stage.packing=none", "~stage.packing_window", "stage.max_steps=4"]
    assert train("run.name=whole", *words) == 0
    assert train("run.name=stopped", *words, "data.on_bad_sample=error", "~data.max_bad_ratio") == 3
    told = capsys.readouterr()
    assert "stopped after step 2 of 4; state saved in" in told.out + told.err
    assert "a#8" in told.err
    assert train("run.name=stopped", *words) == 0

    def losses(name: str) -> list[float]:
        lines = (files / "runs" / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert losses("stopped") == losses("whole")
    assert len(losses("whole")) == 4
