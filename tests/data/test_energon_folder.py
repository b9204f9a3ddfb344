"""Folders laid out as `energon prepare` 7.4 leaves them."""

import json
import sqlite3
from itertools import pairwise

import numpy as np
import pytest
import webdataset
import yaml

from vlmforge.config.schema import SourceConfig
from vlmforge.data.builtin_images import draw_picture
from vlmforge.data.check import check_data
from vlmforge.data.sources import open_source
from vlmforge.data.sources.tar import TarRows
from vlmforge.errors import DataError

FIELD_MAP = {"image": "png,jpg", "caption": "json[text][0]"}
CAPTIONING = {
    "sample_type": {"__module__": "megatron.energon", "__class__": "CaptioningSample"},
    "field_map": FIELD_MAP,
}
COUNTS = {"shards/a-0.tar": 3, "shards/a-1.tar": 2, "shards/b.tar": 2}


@pytest.fixture
def prepared(tmp_path):
    """Writes a prepared folder: three shards, two of them for training."""

    def write(dataset=CAPTIONING, exclude=(), idx=True, sqlite=False, counts=COUNTS):
        folder = tmp_path / "set"
        meta = folder / ".nv-meta"
        meta.mkdir(parents=True)
        (folder / "shards").mkdir()
        for name, count in COUNTS.items():
            write_shard(folder / name, count)
        (meta / "dataset.yaml").write_text(yaml.safe_dump(dataset))
        parts = {"train": ["shards/a-{0..1}.tar"], "val": ["shards/b.tar"], "test": []}
        (meta / "split.yaml").write_text(yaml.safe_dump({"exclude": list(exclude), "split_parts": parts}))
        (meta / ".info.json").write_text(json.dumps({"energon_version": "7.4.1", "shard_counts": counts}))
        if sqlite:
            write_sqlite(folder)
        if idx:
            for name in COUNTS:
                starts = np.array([*find_starts(folder / name)], "<u8")
                (folder / f"{name}.idx").write_bytes(starts.tobytes())
        return folder

    return write


def write_shard(path, count):
    with webdataset.TarWriter(str(path)) as writer:
        for k in range(count):
            row = {"text": [f"{path.stem} {k}"]}
            writer.write({"__key__": f"{k:03d}", "png": draw_picture(k), "json": row})


def find_starts(path):
    return TarRows(str(path))._starts


def write_sqlite(folder):
    connection = sqlite3.connect(folder / ".nv-meta" / "index.sqlite")
    connection.execute(
        "CREATE TABLE samples (tar_file_id INTEGER, sample_key TEXT, sample_index INTEGER, byte_offset INTEGER, "
        "byte_size INTEGER)"
    )
    for number, name in enumerate(COUNTS):
        starts = [int(start) for start in find_starts(folder / name)]
        for k, (start, stop) in enumerate(pairwise(starts)):
            connection.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", (number, str(k), k, start, stop - start))
    connection.commit()
    connection.close()


def source_of(folder, **keys):
    return open_source(SourceConfig(**({"path": (str(folder),), "format": "energon"} | keys)), "set")


def answers_of(source):
    return [source.sample(i).messages[-1]["content"] for i in range(len(source))]


def problem_of(folder, make_config, **keys):
    config = SourceConfig(**({"path": (str(folder),), "format": "energon"} | keys))
    (problem,) = check_data(make_config(config), {})
    return problem


@pytest.mark.parametrize("tables", [{"idx": True}, {"idx": False, "sqlite": True}, {"idx": False}])
def test_a_prepared_folder_is_read_by_its_own_words(prepared, tables, monkeypatch):
    folder = prepared(**tables)
    if tables != {"idx": False}:
        # What energon wrote about the shards is enough.
        monkeypatch.setattr("vlmforge.data.sources.tar._iterate_starts", None)
    source = source_of(folder)
    assert answers_of(source) == ["a-0 0", "a-0 1", "a-0 2", "a-1 0", "a-1 1"]
    assert source.place(3).where == f"{folder}/shards/a-1.tar sample 0"
    assert source.sample(4).media()[0].data == draw_picture(1)
    assert answers_of(source_of(folder, split="val")) == ["b 0", "b 1"]


def test_no_shard_is_opened_to_count_its_samples(prepared):
    folder = prepared()
    (folder / "shards/a-1.tar").write_bytes(b"")
    assert len(source_of(folder)) == 5


def test_a_shard_that_is_gone_is_told_before_training(prepared, make_config):
    folder = prepared()
    (folder / "shards/a-1.tar").unlink()
    assert "a-1.tar does not exist, and split.yaml names it" in problem_of(folder, make_config).what


def test_excluded_shards_and_samples_are_left_out(prepared):
    folder = prepared(exclude=["shards/a-1.tar", "shards/a-0.tar/001"])
    assert answers_of(source_of(folder)) == ["a-0 0", "a-0 2"]


def test_subflavors_of_the_recipe_win_and_route(prepared):
    dataset = {
        "sample_type": {"__class__": "VQASample"},
        "field_map": {"image": "png", "context": "json[text][0]", "answers": "__key__"},
        "subflavors": {"is_llava_training": True},
    }
    folder = prepared(dataset)
    assert len(source_of(folder).sample(0).messages) == 2
    assert len(source_of(folder, subflavors={"is_llava_training": False}).sample(0).messages) == 3


def test_the_key_that_routes_has_the_shards_name(prepared):
    dataset = {"__class__": "VQAWebdataset", "field_map": {"image": "png", "context": "__key__", "answers": "__key__"}}
    source = source_of(prepared(dataset))
    assert source.sample(3).messages[-1]["content"] == "shards/a-1.tar/000"


def test_another_format_may_read_the_members(prepared):
    folder = prepared({"__class__": "CrudeWebdataset", "__module__": "megatron.energon"})
    source = source_of(folder, format="captioning", columns={"image": "png", "caption": "json.text"})
    assert answers_of(source)[1] == "a-0 1"


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (
            {"__class__": "CrudeWebdataset"},
            "says __class__: CrudeWebdataset; what can be read is CaptioningSample",
        ),
        (
            CAPTIONING | {"sample_loader": "loader.py:load"},
            "says sample_loader: loader.py:load, which is Python code",
        ),
        ({"field_map": FIELD_MAP}, "dataset.yaml names no class of its samples"),
        (CAPTIONING | {"sample_type": "CaptioningSample"}, "says sample_type: CaptioningSample, which must be a map"),
        (CAPTIONING | {"subflavors": {"augmentation": True}}, "pictures are not augmented"),
    ],
)
def test_what_cannot_be_read_is_told_before_training(prepared, make_config, dataset, words):
    assert words in problem_of(prepared(dataset), make_config).what


def test_a_split_without_shards_tells_those_that_have_some(prepared, make_config):
    problem = problem_of(prepared(), make_config, split="test")
    assert "has no shards in split test; splits with shards: train, val" in problem.what


def test_a_count_that_does_not_fit_is_told(prepared):
    folder = prepared(counts=COUNTS | {"shards/a-0.tar": 4})
    with pytest.raises(DataError, match=r"counts 4 samples in shards/a-0.tar, which has 3"):
        source_of(folder).sample(0)


def test_an_index_of_another_shard_is_told(prepared):
    folder = prepared()
    (folder / "shards/a-0.tar.idx").write_bytes(np.array([0, 10**9], "<u8").tobytes())
    with pytest.raises(DataError, match="is not the index of"):
        source_of(folder).sample(0)


def test_format_energon_needs_a_prepared_folder(make_config, write_jsonl):
    path = write_jsonl("a.jsonl", [{"text": "x"}])
    problem = problem_of(path, make_config)
    assert "is no folder that energon has prepared" in problem.what
