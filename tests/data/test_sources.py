import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmforge.config.schema import SourceConfig
from vlmforge.data.sources import name_sources, open_source
from vlmforge.data.sources.jsonl import JsonlRows
from vlmforge.data.sources.parquet import ParquetRows, list_schema_paths
from vlmforge.errors import DataError

ROWS = [{"prompt": f"q{k}", "response": f"a{k}"} for k in range(10)]


def test_blank_lines_are_no_rows_and_count_as_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"a": 1}\n  \n\n{"a": 2}\r\n{"a": 3}')
    rows = JsonlRows(str(path))
    assert [rows[i] for i in range(len(rows))] == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert [rows.locate(i) for i in range(3)] == [f"{path}:2", f"{path}:5", f"{path}:6"]


@pytest.mark.parametrize("line", ['{"a": ', "[1]", "{'a': 1}", "\x00"])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n")
    rows = JsonlRows(str(path))
    assert rows[0] == {"a": 1}
    with pytest.raises(DataError) as caught:
        rows[1]
    assert caught.value.problems[0].where == f"{path}:2"


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_rows_is_an_error(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="holds no rows"):
        len(JsonlRows(str(path)))


def test_line_starts_are_found_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("vlmforge.data.sources.jsonl._CHUNK_BYTES", 7)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows = JsonlRows(str(path))
    assert [rows[i] for i in range(len(rows))] == ROWS


def test_parquet_rows_come_from_their_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr("vlmforge.data.sources.parquet._CACHE_BYTES", 1)
    monkeypatch.setattr("vlmforge.data.sources.cache.CACHE_FOLDER", tmp_path / "cache")
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3)
    rows = ParquetRows(path, ["prompt"])
    assert len(rows) == 10
    assert [rows[i] for i in (9, 0, 3, 2, 8)] == [{"prompt": f"q{i}"} for i in (9, 0, 3, 2, 8)]
    assert rows.locate(4) == f"{path} row 4"


@pytest.fixture
def small_cache(tmp_path, monkeypatch):
    """One decoded row group of a Parquet file is all that memory holds."""
    monkeypatch.setattr("vlmforge.data.sources.parquet._CACHE_BYTES", 400)
    monkeypatch.setattr("vlmforge.data.sources.cache.CACHE_FOLDER", tmp_path / "cache")
    return tmp_path / "cache"


def test_a_parquet_file_that_memory_does_not_hold_is_copied_once_it_is_read_here_and_there(tmp_path, small_cache):
    path = str(tmp_path / "a.parquet")
    table = [{"messages": [{"role": "user", "content": f"q{k}"}], "image": {"bytes": b"x" * k}} for k in range(40)]
    pq.write_table(pa.Table.from_pylist(table), path, row_group_size=4)
    rows = ParquetRows(path)
    assert [rows[i] for i in range(40)] == table
    assert not small_cache.exists()
    assert [rows[i] for i in (31, 2, 17, 39, 0)] == [table[i] for i in (31, 2, 17, 39, 0)]
    assert [file.suffix for file in small_cache.iterdir() if file.suffix != ".lock"] == [".arrow"]


def test_a_row_group_that_memory_does_not_hold_is_copied_but_its_first_rows_are_seen_at_once(tmp_path, small_cache):
    path = str(tmp_path / "a.parquet")
    table = [{"text": f"line {k} " * 20} for k in range(40)]
    pq.write_table(pa.Table.from_pylist(table), path, compression="none", use_dictionary=False)
    rows = ParquetRows(path)
    assert (rows[3], *rows.head(2)) == (table[3], *table[:2])
    assert not small_cache.exists()
    assert [rows[i] for i in (39, 8)] == [table[39], table[8]]
    assert small_cache.exists()


def test_parquet_columns_of_structs_are_listed_with_dots(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist([{"extra": {"question": "q", "deep": {"x": 1}}}]), path)
    assert list_schema_paths(path) == ["extra", "extra.question", "extra.deep", "extra.deep.x"]


def test_a_file_that_only_is_called_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_text("no")
    with pytest.raises(DataError, match="is no Parquet file"):
        ParquetRows(str(path))


def test_several_files_are_one_list_and_rows_cuts_it(write_jsonl):
    config = SourceConfig(
        path=(write_jsonl("a.jsonl", ROWS[:4]), write_jsonl("b.jsonl", ROWS[4:])),
        format="prompt_response",
        rows=(3, 6),
    )
    source = open_source(config, "a")
    assert [source.sample(i).prompt for i in range(len(source))] == ["q3", "q4", "q5"]
    assert [source.place(i).sample_id for i in range(3)] == ["a#3", "a#4", "a#5"]
    assert source.place(1).where == f"{config.path[1]}:1"


def test_rows_beyond_the_end_tell_how_many_there_are(write_jsonl):
    config = SourceConfig(path=(write_jsonl("a.jsonl", ROWS),), format="prompt_response", rows=(5, 11))
    with pytest.raises(DataError, match="there are 10 rows") as caught:
        open_source(config, "a")
    assert caught.value.problems[0].fix == "rows within [0, 10]"


def test_names_tell_sources_apart():
    paths = ["data/a.jsonl", "other/a.parquet", "org/set", "builtin:text"]
    configs = [SourceConfig(path=(path,), format="text") for path in paths]
    assert name_sources(configs) == ["a", "a-2", "set", "text"]


@pytest.mark.filterwarnings("default")
def test_a_saved_folder_of_the_datasets_library_is_read_by_split(tmp_path):
    path = str(tmp_path / "saved")
    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:2])}
    ).save_to_disk(path)
    source = open_source(SourceConfig(path=(path,), format="prompt_response", split="test"), "saved")
    assert len(source) == 2
    assert source.sample(1).response == "a1"
    with pytest.raises(DataError, match="train or test, not None"):
        open_source(SourceConfig(path=(path,), format="prompt_response"), "saved")


@pytest.mark.parametrize("name", ["dates", "prompt_response"])
def test_built_in_rows_lie_where_the_columns_say(name):
    columns = {"prompt": "extra.question", "response": "extra.answer"}
    plain = open_source(SourceConfig(path=(f"builtin:{name}",), format="prompt_response"), "b")
    nested = open_source(SourceConfig(path=(f"builtin:{name}",), format="prompt_response", columns=columns), "b")
    assert plain.sample(5).prompt == nested.sample(5).prompt


def test_a_damaged_parquet_file_is_an_error_of_the_data(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": f"line {k}"} for k in range(100)]), path, compression="none")
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(bytes(content))
    rows = ParquetRows(str(path))
    with pytest.raises(DataError, match="is no Parquet file, or is damaged"):
        rows[0]
