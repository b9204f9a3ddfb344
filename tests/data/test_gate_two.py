import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmforge.config.schema import SourceConfig
from vlmforge.data.check import check_data
from vlmforge.data.fingerprint import fingerprint_sources
from vlmforge.data.forecast import count_unpacked_steps, open_countable
from vlmforge.data.gsm8k_parquet import main as make_parquet

ROWS = [{"question": f"q{k}", "answer": f"a{k}"} for k in range(10)]
COLUMNS = {"prompt": "question", "response": "answer"}
ORIGINS = {"data.train.0.path": "recipe.yaml:7", "data.train": "recipe.yaml:6"}


def check(make_config, *sources, **data):
    return check_data(make_config(*sources, data=data), ORIGINS)


def source(path, format="prompt_response", **keys):
    return SourceConfig(path=(str(path),), format=format, **keys)


def test_good_data_has_no_problems(make_config, write_jsonl, tmp_path):
    parquet = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist([{"extra": row} for row in ROWS]), parquet)
    nested = {"prompt": "extra.question", "response": "extra.answer"}
    good = (
        source(write_jsonl("a.jsonl", ROWS), columns=COLUMNS, rows=(0, 10)),
        source(parquet, columns=nested),
        source("builtin:messages", "messages"),
        source("org/set", split="train"),
    )
    assert check(make_config, *good) == []


def test_an_absent_file_names_the_nearest_one_and_the_line_of_the_recipe(make_config, write_jsonl, tmp_path):
    write_jsonl("train.jsonl", ROWS)
    (problem,) = check(make_config, source(tmp_path / "trian.jsonl"))
    assert problem.what == f"data.train.0.path = {tmp_path}/trian.jsonl does not exist"
    assert problem.where == "recipe.yaml:7"
    assert problem.fix == f"did you mean  {tmp_path}/train.jsonl"


# What the recipes read that are here, and what makes it.
MADE_BY = {
    "gsm8k/test.jsonl": "fetch_assets.py",
    "openmoji-all/train.jsonl": "fetch_assets.py --only openmoji_all",
    "drawn/train.jsonl": "draw_questions.py",
}


@pytest.mark.parametrize(("path", "script"), MADE_BY.items())
def test_an_absent_asset_names_what_makes_it(path, script, make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (problem,) = check(make_config, source(f"assets/{path}"))
    folder = path.partition("/")[0]
    wanted = f"python scripts/{script}  makes assets/{folder}/ (docs/assets.md), or give the path of your own file"
    assert problem.fix == wanted


@pytest.mark.parametrize(("name", "is_made"), [("train", True), ("test", True), ("val", False)])
def test_files_of_gsm8k_as_verl_names_them_are_made_by_the_command_that_is_told(
    make_config, write_jsonl, tmp_path, name, is_made
):
    path = tmp_path / "gsm8k" / f"{name}.parquet"
    (problem,) = check(make_config, source(path))
    assert problem.fix.startswith(f"python -m vlmforge.data.gsm8k_parquet {name}.jsonl {path}  ") == is_made
    if is_made:
        rows = write_jsonl(f"{name}.jsonl", [{"question": "1 + 1?", "answer": "#### 2"}])
        assert make_parquet([str(rows), problem.fix.split()[4]]) == 0
        assert path.is_file()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (source("nowhere/at/all.jsonl"), "does not exist"),
        (source("builtin:date"), "builtin:date does not exist"),
        (source("builtin:dates", "text"), "builtin:dates is of format prompt_response"),
        (source("builtin:dates", split="train"), "no effect"),
        (source("builtin:dates", rows=(0, 10**6)), "there are 8192 rows"),
    ],
)
def test_every_kind_of_mistake_is_told(make_config, broken, words):
    (problem,) = check(make_config, broken)
    assert words in problem.what


def test_a_file_of_another_kind_is_refused(make_config, tmp_path):
    (tmp_path / "a.tar.gz").write_text("x")
    (problem,) = check(make_config, source(tmp_path / "a.tar.gz"))
    assert "must end in .jsonl, .json, .parquet, .tar, .csv or .tsv" in problem.what
    assert "gunzip" in problem.fix


def test_an_absent_column_is_told_for_both_kinds_of_files(make_config, write_jsonl, tmp_path):
    parquet = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), parquet)
    columns = {"prompt": "question", "response": "answers"}
    jsonl = write_jsonl("a.jsonl", ROWS)
    problems = check(make_config, source(jsonl, columns=columns), source(parquet, columns=columns))
    assert [problem.fix for problem in problems] == ["say where it is, for example  columns: {response: answer}"] * 2
    assert problems[0].where == f"{jsonl}:1 (sample a#0), by recipe.yaml:6"
    assert problems[1].where == "recipe.yaml:6"


def test_an_optional_column_that_is_asked_for_must_be_there(make_config, tmp_path):
    parquet = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": [{"role": "user", "content": "x"}], "tool": "[]"}]), parquet)
    assert check(make_config, source(parquet, "messages")) == []
    (problem,) = check(make_config, source(parquet, "messages", columns={"tools": "tols"}))
    assert "column tols is absent" in problem.what
    assert "columns: {tools: tool}" in problem.fix


def test_all_problems_are_told_at_once(make_config, tmp_path):
    problems = check(
        make_config, source("builtin:no"), source(tmp_path / "no.jsonl"), validation=(source("builtin:nix"),)
    )
    assert len(problems) == 3
    assert "data.validation.0.path" in problems[2].what


def test_a_bad_first_row_is_no_problem_where_bad_rows_are_skipped(make_config, write_jsonl):
    path = write_jsonl("a.jsonl", [{"question": None, "answer": "a"}, *ROWS])
    assert len(check(make_config, source(path, columns=COLUMNS))) == 1
    assert check(make_config, source(path, columns=COLUMNS), on_bad_sample="skip") == []


def test_an_empty_file_is_a_problem(make_config, tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    (problem,) = check(make_config, source(tmp_path / "a.jsonl"))
    assert "holds no rows" in problem.what


def test_rows_are_counted_unless_a_library_would_have_to_load_them(make_config, write_jsonl):
    path = write_jsonl("a.jsonl", ROWS)
    config = make_config(source(path, rows=(2, 9)), source("builtin:text", "text"), max_epochs=2.0)
    blend = open_countable(config)
    assert blend is not None
    assert sum(map(len, blend.sources)) == 71
    assert count_unpacked_steps(config, blend, None) == 18
    assert open_countable(make_config(source("org/set"))) is None


def test_a_fingerprint_changes_with_the_content(make_config, write_jsonl):
    config = make_config(source(write_jsonl("a.jsonl", ROWS)))
    before = fingerprint_sources(config)
    assert before == fingerprint_sources(config)
    write_jsonl("a.jsonl", [*ROWS[:-1], {"question": "q9", "answer": "b9"}])
    assert before != fingerprint_sources(config)


def test_gate_two_and_the_formats_import_no_heavy_library():
    code = (
        "import sys, vlmforge.data.check, vlmforge.data.formats\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
