import io
import tarfile

import numpy as np
import pytest
import webdataset

from vlmforge.config.schema import SourceConfig
from vlmforge.data.check import check_data
from vlmforge.data.sources import open_source
from vlmforge.data.sources.tar import TarRows
from vlmforge.errors import DataError

COLUMNS = {"prompt": "json.prompt", "response": "json.response"}
PAIRS = [{"prompt": f"q{k}", "response": f"a{k}" * k} for k in range(1, 8)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Tables of positions of this test alone, kept however small the file is."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("vlmforge.data.sources.cache.CACHE_FOLDER", folder)
    monkeypatch.setattr("vlmforge.data.sources.index._KEEP_FROM_BYTES", 0)
    return folder


def write_shard(path, samples):
    """A shard as the webdataset library writes it."""
    with webdataset.TarWriter(str(path)) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:04d}", **sample})
    return str(path)


def write_members(path, members):
    """A shard of members of our own making."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def read_all(path):
    rows = TarRows(path)
    return [rows[i] for i in range(len(rows))]


def test_a_shard_of_the_webdataset_library_gives_what_the_library_reads(tmp_path):
    path = write_shard(tmp_path / "a.tar", [{"json": row, "txt": f"text {k}", "cls": k} for k, row in enumerate(PAIRS)])
    expected = [
        {key: value for key, value in sample.items() if key not in ("__url__", "__local_path__")}
        for sample in webdataset.WebDataset(path, shardshuffle=False).decode()
    ]
    assert read_all(path) == expected
    assert len(expected) == len(PAIRS)


def test_rows_are_reached_in_any_order_and_the_table_is_made_once(tmp_path, monkeypatch, cache):
    path = write_shard(tmp_path / "a.tar", [{"json": row} for row in PAIRS])
    rows = TarRows(path)
    assert [rows[i]["json"]["prompt"] for i in (6, 0, 3)] == ["q7", "q1", "q4"]
    assert sorted(file.suffix for file in cache.iterdir()) == [".lock", ".tar"]
    monkeypatch.setattr("vlmforge.data.sources.tar._iterate_starts", None)
    assert len(TarRows(path)) == 7


def test_a_shard_written_anew_gets_a_new_table(tmp_path):
    path = write_shard(tmp_path / "a.tar", [{"json": row} for row in PAIRS])
    assert len(TarRows(path)) == 7
    write_shard(path, [{"json": row} for row in PAIRS[:2]])
    assert len(TarRows(path)) == 2


def test_long_names_folders_and_strangers_are_read_as_webdataset_does(tmp_path):
    long = "deep/" * 40 + "x" * 120
    members = [
        ("README", b"no sample"),
        ("__meta__/a.json", b"{}"),
        ("./a/1.seg.PNG", b"p"),
        ("./a/1.txt", b"one"),
        (".hidden.txt", b"no"),
        (f"{long}.txt", b"two"),
    ]
    rows = read_all(write_members(tmp_path / "a.tar", members))
    assert rows == [{"__key__": "a/1", "seg.png": b"p", "txt": "one"}, {"__key__": long, "txt": "two"}]


def test_a_shard_is_read_from_any_address_that_fsspec_knows(tmp_path):
    import fsspec

    write_shard(tmp_path / "a.tar", [{"json": row} for row in PAIRS])
    content = (tmp_path / "a.tar").read_bytes()
    for number in range(2):
        with fsspec.open(f"memory://shards/a-{number}.tar", "wb") as file:
            file.write(content)
    for path in ("memory://shards/a-*.tar", "memory://shards/a-{0..1}.tar"):
        config = SourceConfig(path=(path,), format="prompt_response", columns=COLUMNS)
        source = open_source(config, "a")
        assert len(source) == 14
        assert source.sample(8).prompt == "q2"
        assert source.place(8).where.endswith("shards/a-1.tar sample 1")


def array_header(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": False, "descr": "<f8"})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("1.json", b"{")], "1.json cannot be read"),
        ([("1.txt", b"\xff")], "1.txt cannot be read"),
        ([("1.txt", b"a"), ("1.txt", b"b")], "1.txt comes twice"),
        ([("1.json", b"[" * 100_000)], "1.json cannot be read"),
        ([("1.npy", b"PK\3\4")], "1.npy cannot be read"),
        ([("1.npy", array_header((10**15,)) + b"12345678")], "(1000000000000000,) of float64, and 8 bytes follow"),
    ],
)
def test_a_damaged_member_is_a_bad_sample_with_shard_and_number(tmp_path, members, words):
    path = write_members(tmp_path / "a.tar", members)
    with pytest.raises(DataError) as caught:
        TarRows(path)[0]
    assert words in caught.value.problems[0].what
    assert caught.value.problems[0].where == f"{path} sample 0"
    assert caught.value.kind == "unreadable_row"


def test_a_member_whose_size_leads_back_is_refused_where_an_index_says_that_it_is_a_sample(tmp_path):
    path = write_members(tmp_path / "a.tar", [("1.txt", b"a"), ("1.cls", b"2")])
    raw = bytearray((tmp_path / "a.tar").read_bytes()[:2048])
    raw[1024 + 124 : 1024 + 136] = b"-0000001000\0"
    raw[1024 + 148 : 1024 + 156] = b" " * 8
    raw[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(raw[1024:1536])
    (tmp_path / "a.tar").write_bytes(raw)
    np.array([0, 2048], "<u8").tofile(tmp_path / "a.tar.idx")
    with pytest.raises(DataError, match="the shard is damaged"):
        TarRows(path)[0]


@pytest.mark.parametrize(("content", "words"), [(b"no tar file", "no tar file, or is damaged"), (b"", "no tar file")])
def test_what_is_no_tar_file_is_told(tmp_path, content, words):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=words):
        len(TarRows(str(tmp_path / "a.tar")))


def test_a_pickle_in_an_array_is_not_opened(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path = write_members(tmp_path / "a.tar", [("1.npy", buffer.getvalue())])
    with pytest.raises(DataError, match=r"1.npy cannot be read"):
        TarRows(path)[0]


def test_gate_two_looks_at_the_first_samples_only_where_counting_takes_long(tmp_path, make_config, monkeypatch):
    good = write_shard(tmp_path / "a-0.tar", [{"json": row} for row in PAIRS])
    columns = {"prompt": "json.prompt"}
    config = SourceConfig(path=(str(tmp_path / "a-*.tar"),), format="prompt_response", columns=columns)
    monkeypatch.setattr("vlmforge.data.forecast._MAX_BYTES_TO_COUNT", 0)
    (problem,) = check_data(make_config(config), {})
    assert "column response is absent; the row has __key__, json.prompt, json.response" in problem.what
    assert "columns: {response: json.response}" in problem.fix
    assert problem.where.startswith(f"{good} row 0")
