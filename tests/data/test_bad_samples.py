"""Every way in which one sample can be wrong: what is said where it stops, and what is counted where it is skipped."""

import json

import pytest

from vlmforge.config.schema import SourceConfig
from vlmforge.data.bad import BAD_KINDS
from vlmforge.data.ledger import Ledger
from vlmforge.data.window import build_train_windows
from vlmforge.errors import DataError

GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
ASKED = {"role": "user", "content": "a"}


def about(image):
    """A row that asks about a picture."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": "a"}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "b"}]}


# A line that is no row, or a row; the kind; and what the reason says.
ROWS = [
    ("{", "unreadable_row", "the line is no JSON"),
    ('{"messages": "\x01', "unreadable_row", "the line is no JSON: Invalid control character at character 15"),
    (f'{{"messages": {"[" * 100_000}', "unreadable_row", "the line is no JSON"),
    ({"messages": [ASKED, {"role": "assistant", "tool_calls": 5}]}, "wrong_type", "tool_calls is of type int"),
    (GOOD | {"tools": [{"function": "add"}]}, "wrong_type", "tools has an entry without a function name"),
    ({"message": []}, "missing_column", "column messages is absent; the row has message"),
    ({"messages": None}, "missing_column", "column messages is null"),
    ({"messages": "7"}, "wrong_type", "messages is of type int, not a list of objects"),
    ({"messages": [{"role": "bot", "content": "a"}]}, "wrong_type", "role = 'bot' must be"),
    ({"messages": []}, "empty", "messages is an empty list"),
    ({"messages": [ASKED, {"role": "assistant", "content": " "}]}, "empty", "messages[1].content is empty"),
    ({"messages": [ASKED]}, "no_label", "the sample has no assistant turn"),
    (about("https://example.org/a.png"), "refused_address", "is an address on the network"),
    (about("data:image/png;base64,!"), "undecodable_image", "cannot be decoded"),
    (about(7), "wrong_type", "is of type int, neither a path nor bytes"),
]


def windows_of(make_config, tokenizer, tmp_path, row, **data):
    """The windows of nine good rows and one that is not, at line 5."""
    lines = [json.dumps(GOOD)] * 10
    lines[4] = row if isinstance(row, str) else json.dumps(row)
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = SourceConfig(path=(str(tmp_path / "a.jsonl"),), format="messages")
    return build_train_windows(make_config(source, data={"shuffle": False} | data, seq_len=64), tokenizer)


def made(windows):
    """All samples, and the ledger of what was left out."""
    ledger = Ledger()
    samples = []
    for window in windows.make_all():
        window.count_holes(ledger)
        samples += [sample for row in window.rows for sample in row]
    return samples, ledger


@pytest.mark.parametrize(("row", "kind", "words"), ROWS)
def test_a_bad_sample_stops_with_its_place_or_is_counted(make_config, chatml, tmp_path, row, kind, words):
    with pytest.raises(DataError) as caught:
        made(windows_of(make_config, chatml, tmp_path, row))
    (problem,) = caught.value.problems
    assert words in problem.what
    assert f"{tmp_path}/a.jsonl:5" in problem.where
    assert problem.fix
    samples, ledger = made(windows_of(make_config, chatml, tmp_path, row, on_bad_sample="skip"))
    assert [sample.index for sample in samples] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert ledger.as_dict()["sources"]["a"]["bad_kinds"] == {kind: 1}
    (left_out,) = ledger.left_out
    assert left_out.as_dict() | {"reason": "", "where": ""} == {
        "sample": "a#4",
        "kind": kind,
        "where": "",
        "reason": "",
    }
    assert words in left_out.reason
    assert left_out.where.startswith(f"{tmp_path}/a.jsonl:5")


def test_a_sample_that_is_too_long_is_dropped_and_is_not_bad(make_config, chatml, tmp_path):
    row = {"messages": [ASKED, {"role": "assistant", "content": "b " * 100}]}
    with pytest.raises(DataError, match=r"more than stage\.seq_len = 64"):
        made(windows_of(make_config, chatml, tmp_path, row, on_bad_sample="skip"))
    _, ledger = made(windows_of(make_config, chatml, tmp_path, row, on_too_long="drop"))
    counts = ledger.as_dict()["sources"]["a"]
    assert (counts["dropped"], counts["bad"], counts["bad_kinds"]) == (1, 0, {})
    assert ledger.left_out[0].as_dict()["kind"] == "too_long"


def test_a_file_that_cannot_be_read_stops_whatever_is_skipped(make_config, chatml, tmp_path):
    windows = windows_of(make_config, chatml, tmp_path, GOOD, on_bad_sample="skip")
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        made(windows)


def test_a_conversation_that_the_template_refuses_is_counted(make_config, byte_level, tmp_path):
    row = {"messages": [{"role": "system", "content": "s"}, *GOOD["messages"]]}
    windows = windows_of(make_config, byte_level("inst"), tmp_path, row, on_bad_sample="skip")
    _, ledger = made(windows)
    assert ledger.as_dict()["sources"]["a"]["bad_kinds"] == {"unrenderable": 1}
    assert "the chat template refuses the conversation: only user and assistant" in ledger.left_out[0].reason


def test_every_kind_has_a_test():
    here = {kind for _, kind, _ in ROWS} | {"too_long", "unrenderable"}
    with_files = {"missing_file", "oversized_image"}  # tests/train/test_picture_sources.py
    assert here | with_files == set(BAD_KINDS)
