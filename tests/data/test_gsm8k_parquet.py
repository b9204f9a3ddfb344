"""verl's GSM8K files out of a user's own rows, and rows that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from vlmforge.cli import main as vlmforge
from vlmforge.data.gsm8k_parquet import INSTRUCTION, main

ROWS = [
    {"question": "How many eggs are 2 dozen?", "answer": "2 x 12 = <<2*12=24>>24\n#### 24"},
    {"question": "A farm of 1,000 acres doubles.", "answer": "It was #### 1,000 before.\n#### 2,000"},
    # A character that some take for the end of a line, and JSON does not.
    {"question": "What is left of $3.50\u2028after $4?", "answer": "3.50 - 4 = -0.50\n#### -0.50"},
]


def write(folder: Path, *lines: object) -> Path:
    path = folder / "rows.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def test_the_columns_are_verls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "data/gsm8k/train.parquet"
    assert main([str(write(tmp_path, *ROWS)), str(target)]) == 0
    assert "3 rows" in capsys.readouterr().out
    table = pyarrow.parquet.read_table(target)
    assert {field.name: str(field.type) for field in table.schema} == {
        "data_source": "string",
        "prompt": "list<element: struct<role: string, content: string>>",
        "ability": "string",
        "reward_model": "struct<style: string, ground_truth: string>",
        "extra_info": "struct<split: string, index: int64, answer: string, question: string>",
    }
    assert table.to_pylist()[1] == {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{ROWS[1]['question']} {INSTRUCTION}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2000"},
        "extra_info": {"split": "train", "index": 1, **ROWS[1]},
    }
    assert [row["ground_truth"] for row in table["reward_model"].to_pylist()] == ["24", "2000", "-0.50"]


def test_the_files_are_what_the_recipes_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlmforge.commands.validate._check_on_meta", lambda config: [])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    rows = str(write(tmp_path, *ROWS))
    assert vlmforge(["validate", "recipe=qwen2p5_0p5b/gsm8k_lora"]) == 3, "the files are not there yet"
    for split in ("train", "test"):
        assert main([rows, f"data/gsm8k/{split}.parquet"]) == 0
    assert vlmforge(["validate", "recipe=qwen2p5_0p5b/gsm8k_lora"]) == 0


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "a row is not JSON"),
        ("[1]", "a row is not a JSON object"),
        ("", "a row is not JSON"),
        ({"question": "Q"}, "the field answer is not there; this row has question"),
        ({"prompt": "Q", "answer": "#### 1"}, "the field question is not there; this row has prompt, answer"),
        ({"question": "Q", "answer": 5}, "the field answer is not text"),
        ({"question": " ", "answer": "#### 1"}, "the field question is empty"),
        ({"question": "Q", "answer": "It is 7."}, "the answer does not end in `#### ` and a number"),
        ({"question": "Q", "answer": "#### seven"}, "the answer does not end in `#### ` and a number"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    line: object, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "train.parquet"
    path = write(tmp_path, ROWS[0], line, ROWS[1])
    assert main([str(path), str(target)]) == 3
    report = capsys.readouterr().err
    assert what in report
    assert f"where: {path}:2" in report
    assert '"answer": "... #### 42"' in report
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_many_bad_rows_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write(tmp_path, *[{"q": 1}] * 25)), str(tmp_path / "test.parquet")]) == 3
    report = capsys.readouterr().err
    assert report.count("error:") == 11
    assert "15 more rows are wrong" in report


def test_a_file_that_is_not_there_and_a_split_that_is_not_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.jsonl"), str(tmp_path / "test.parquet")]) == 3
    assert "cannot be read: No such file or directory" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main([str(write(tmp_path, *ROWS)), str(tmp_path / "mine.parquet")])
    assert caught.value.code == 2
    assert "--split train" in capsys.readouterr().err
    assert main([str(write(tmp_path, *ROWS)), str(tmp_path / "mine.parquet"), "--split", "test"]) == 0


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, *ROWS)
    assert main([str(path), str(path / "train.parquet")]) == 3
    assert "train.parquet cannot be written" in capsys.readouterr().err
    (tmp_path / "test.parquet").mkdir()
    assert main([str(path), str(tmp_path / "test.parquet")]) == 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rows.jsonl", "test.parquet"]
