"""Files as other tools write them, trained on without conversion, by the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from tests.support.runs import RECIPE, metrics, sample_ids

from vlmforge.cli import main

PAIRS = [(f"What is {a} and {a}?", str(2 * a)) for a in range(24)]


def write_shards(folder: Path) -> None:
    """Two tar shards of the webdataset library; the second has a sample whose JSON is cut off."""
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"sums-{shard}.tar")) as writer:
            for k, (question, answer) in enumerate(PAIRS[shard * 12 : shard * 12 + 12]):
                turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
                row = b'{"conversations": [' if (shard, k) == (1, 5) else json.dumps({"conversations": turns}).encode()
                writer.write({"__key__": f"{shard}/{k:03d}", "json": row})


def write_verl(folder: Path) -> None:
    """Parquet as verl's scripts for conversations and for GSM8K write it."""
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in PAIRS]
    pq.write_table(pa.table({"messages": turns, "enable_thinking": [False] * len(turns)}), folder / "turns.parquet")
    rows = [{"data_source": "sums", "extra_info": {"question": q, "answer": a, "index": 0}} for q, a in PAIRS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "sums.parquet")


def write_csv(folder: Path) -> None:
    with (folder / "sums.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        writer.writerows((f'{question}\n"Please."', answer) for question, answer in PAIRS)


def write_recipe(folder: Path) -> None:
    recipe = yaml.safe_load(RECIPE)
    recipe["data"] = {
        "train": [
            {"path": "sums-{0..1}.tar", "format": "sharegpt", "columns": {"conversations": "json.conversations"}},
            {"path": "turns.parquet", "format": "messages"},
            {
                "path": "sums.parquet",
                "format": "prompt_response",
                "name": "gsm",
                "columns": {"prompt": "extra_info.question", "response": "extra_info.answer"},
            },
            {
                "path": "*.csv",
                "format": "prompt_response",
                "name": "table",
                "columns": {"prompt": "question", "response": "answer"},
            },
        ],
        "on_bad_sample": "skip",
        "max_bad_ratio": 0.05,
        "num_workers": 2,
    }
    recipe["stage"] |= {"max_steps": None, "max_epochs": 1}
    (folder / "mixed.yaml").write_text(yaml.safe_dump(recipe))


@pytest.fixture
def files(here: Path) -> Path:
    for write in (write_shards, write_verl, write_csv, write_recipe):
        write(here)
    return here


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_shards_parquet_and_tables_of_other_tools_are_trained_on_as_they_are(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "recipe=mixed.yaml"]) == 0
    assert main(["train", "recipe=mixed.yaml", "run.name=mixed"]) == 0
    run = files / "runs/mixed"
    ids = {name for step in sample_ids(run) for name in step}
    assert len(ids) == 24 * 4 - 1
    assert "sums#17" not in ids
    ledger = json.loads((run / "ledger.json").read_text())["sources"]
    assert {name: counts["samples"] for name, counts in ledger.items()} == {
        "sums": 23, "turns": 24, "gsm": 24, "table": 24,
    }  # fmt: skip
    assert ledger["sums"]["bad_kinds"] == {"unreadable_row": 1}
    (line,) = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert 1 <= line["step"] <= len(metrics(run))
    (bad,) = line["samples"]
    assert (bad["sample"], bad["kind"]) == ("sums#17", "unreadable_row")
    assert bad["where"] == "sums-1.tar sample 5"
    assert "1/005.json cannot be read" in bad["reason"]
    said = capsys.readouterr().out
    assert "23 samples, 1 bad (1 unreadable_row)" in said
    assert "each sample that was left out, and why: runs/mixed/bad_samples.jsonl" in said


def test_too_many_bad_samples_stop_a_run_which_has_written_down_what_is_wrong(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "recipe=mixed.yaml", "run.name=strict", "data.max_bad_ratio=0", "data.num_workers=0"]) == 3
    report = capsys.readouterr().err
    assert "samples are bad, more than data.max_bad_ratio = 0.0" in report
    assert "sums#17 (1 unreadable_row)" in report
    assert "1/005.json cannot be read" in (files / "runs/strict/bad_samples.jsonl").read_text()
