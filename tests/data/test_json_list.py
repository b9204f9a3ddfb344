import json

import pytest

from vlmforge.config.schema import SourceConfig
from vlmforge.data.sources import open_source
from vlmforge.data.sources.json_list import JsonListRows
from vlmforge.errors import DataError

ROWS = [{"id": k, "text": '\u00e9\u4e2d\\"]}' * k, "deep": [{"a": [k, None]}]} for k in range(40)]


@pytest.mark.parametrize("chunk_bytes", [7, 64, 1 << 20])
@pytest.mark.parametrize("layout", [{}, {"indent": 2, "ensure_ascii": False}])
def test_items_are_found_wherever_the_pieces_end(tmp_path, monkeypatch, chunk_bytes, layout):
    monkeypatch.setattr("vlmforge.data.sources.json_list._CHUNK_BYTES", chunk_bytes)
    path = tmp_path / "a.json"
    path.write_text("\ufeff \n" + json.dumps(ROWS, **layout) + "\n")
    rows = JsonListRows(str(path))
    assert [rows[i] for i in range(len(rows))] == ROWS
    assert rows.head(3) == ROWS[:3]
    assert rows.locate(7) == f"{path} item 7"


def test_llavas_own_file_is_a_source(tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat"}]
    (tmp_path / "blip.json").write_text(json.dumps([{"id": "1", "image": "a/1.jpg", "conversations": turns}]))
    source = open_source(SourceConfig(path=(str(tmp_path / "blip.json"),), format="llava"), "blip")
    assert source.sample(0).media()[0].path == f"{tmp_path}/a/1.jpg"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is no list in JSON"),
        ('{"a": 1}', "is no list in JSON"),
        ("[]", "holds no rows"),
        ('[{"a": 1}, {"a": ', "is damaged or cut off"),
        ('[{"a": 1} {"a": 2}]', "is damaged or cut off"),
        ('[{"a": 1}', "is damaged or cut off"),
        ("[{'a': 1}]", "is damaged or cut off"),
    ],
)
def test_what_is_no_list_is_told(tmp_path, content, words):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=words):
        len(JsonListRows(str(tmp_path / "a.json")))


def test_an_item_that_is_no_object_is_a_bad_sample(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"a": 1}, 7, {"a": "\xff"}]')
    rows = JsonListRows(str(tmp_path / "a.json"))
    assert rows[0] == {"a": 1}
    with pytest.raises(DataError, match="of type int, not an object"):
        rows[1]
    with pytest.raises(DataError, match="the item is no JSON: 'utf-8' codec"):
        rows[2]
