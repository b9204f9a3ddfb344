"""Data that is not what the recipe says, through the command itself: what is said, where, and what works."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.commands.test_validate import blocks, run
from vlmforge.data.draw import draw_square

RECIPE = """# Data of every kind for a small model that sees
defaults: [/model: quickstart_vl, /parallelism: single, /stage: sft, _self_]
data:
  train: [{path: chats.jsonl, format: messages}]
stage: {seq_len: 1024, max_steps: 1, global_batch_size: 1}
"""
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
PICTURES = "{path: captions.csv, format: captioning, media_root: %s}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Chats, sums, captions of pictures of which the last is cut off, and a blend with a file among its folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "chats.jsonl").write_text((json.dumps(CHAT) + "\n") * 60)
    (tmp_path / "bad.jsonl").write_text(f'{json.dumps(CHAT)}\n{{"messages": [}}\n')
    (tmp_path / "sums.csv").write_text("question,answer\n1 + 1?,2\n" * 2)
    (tmp_path / "captions.csv").write_text("image,caption\nwhole.png,A square\ncut.png,Half a square\n")
    (tmp_path / "cut.csv").write_text("image,caption\n" + "cut.png,Half a square\n" * 5)
    (tmp_path / "pictures").mkdir()
    picture = draw_square(40, 40, (200, 30, 30))
    (tmp_path / "pictures/whole.png").write_bytes(picture)
    # The header is whole.
    (tmp_path / "pictures/cut.png").write_bytes(picture[: picture.index(b"IDAT") + 24])
    blend = [{"path": "chats.jsonl", "weight": 1}, {"path": "sums.csv", "weight": 2}]
    (tmp_path / "blend.yaml").write_text(yaml.safe_dump({"splits": {"train": {"blend": blend}}}))
    (tmp_path / "named.yaml").write_text(
        yaml.safe_dump({"splits": {"train": {"path": "sums.csv", "format": "messages"}}})
    )
    (tmp_path / "semicolons.csv").write_text("image;caption\nwhole.png;A square\n")
    (tmp_path / "empty").mkdir()
    for number in range(12):
        (tmp_path / f"many/set{number:02d}").mkdir(parents=True)
    return tmp_path


# overrides; part of the message, of the place and of the remedy
BAD = [
    (
        ["data.train=blend.yaml"],
        "splits.train.blend.0.path = chats.jsonl is a file, and nothing says what its rows are",
        "blend.yaml:4",
        "data.train.0 in the recipe: {path: blend.yaml, format: messages}",
    ),
    (
        ["data.train=named.yaml"],
        "splits.train.format is no key of an entry",
        "named.yaml:3",
        "data.train.0 in the recipe: {path: named.yaml, format: messages}",
    ),
    (
        ["data.train=[{path: blend.yaml, format: messages}]"],
        "column messages is absent; the row has question, answer",
        "sums.csv:2 (sample sums#0), by blend.yaml:6",
        "columns: {messages: ",
    ),
    (
        ["data.train.0.rows=[0,200]", "data.validation=[{path: chats.jsonl, format: messages, rows: [200, 240]}]"],
        "data.validation.0: rows = [200, 240] reaches beyond the end; there are 60 rows",
        "command line: data.validation",
        "'data.train.0.rows=[0,50]' 'data.validation.0.rows=[50,60]'",
    ),
    (
        ["data.train.0.rows=[0,40]", "data.validation=[{path: chats.jsonl, format: messages, rows: [40, 240]}]"],
        "data.validation.0: rows = [40, 240] reaches beyond the end",
        "command line: data.validation",
        "'data.validation.0.rows=[40,60]'",
    ),
    (
        ["data.train.0.rows=[0,60]", "data.validation=[{path: chats.jsonl, format: messages, rows: [60, 61]}]"],
        "data.validation.0: rows = [60, 61] reaches beyond the end",
        "command line: data.validation",
        "'data.train.0.rows=[0,59]' 'data.validation.0.rows=[59,60]'",
    ),
    (
        [f"data.train=[{PICTURES % 'pictres'}]", "data.on_bad_sample=skip"],
        "data.train.0.media_root = pictres is no folder",
        "command line: data.train",
        "did you mean  pictures",
    ),
    (
        [f"data.train=[{PICTURES % 'elsewhere/pictures'}]"],
        "data.train.0.media_root = elsewhere/pictures is no folder",
        "command line: data.train",
        "folder elsewhere does not exist either",
    ),
    (
        [f"data.train=[{PICTURES % 'pictures'}]"],
        "data.train.0: the picture cannot be decoded: ",
        "captions.csv:3 (sample captions#1), image, cut.png",
        "replace the file, or leave such samples out with  data.on_bad_sample=skip",
    ),
    (
        [f"data.train=[{(PICTURES % 'pictures').replace('captions', 'cut')}]", "data.on_bad_sample=skip"],
        "none of the first 4 rows can be used; of the first one, the picture cannot be decoded",
        "cut.csv:2",
        "replace the file",
    ),
    (
        ["data.train.0.path=bad.jsonl"],
        "data.train.0: the line is no JSON: Expecting value at character 15",
        "bad.jsonl:2, by recipe.yaml:4",
        "write one JSON object on every line",
    ),
    (
        [f"data.train=[{(PICTURES % 'pictures').replace('captions', 'semicolons')}]"],
        "data.train.0: the first line names one column, 'image;caption'",
        "semicolons.csv:1, by command line",
        "save the table with commas",
    ),
    (
        ["data.train.0.path=empty"],
        "data.train.0.path = empty is a folder without any file",
        "command line: data.train.0.path",
        "the path of a file, or of a folder with data",
    ),
    (
        ["data.train.0.path=pictures"],
        "pictures or films and no file that says what to answer about them",
        "command line: data.train.0.path",
        "write a table as docs/data.md begins with, and give its path and  media_root: pictures",
    ),
    (
        ["data.train.0.path=many/x.jsonl"],
        "data.train.0.path = many/x.jsonl does not exist",
        "command line: data.train.0.path",
        "many has set00, set01, set02, set03, set04, set05, set06, set07 and 4 more; give the path",
    ),
]


@pytest.mark.parametrize(("words", "what", "where", "fix"), BAD, ids=lambda value: str(value)[:40])
def test_bad_data_is_answered_with_its_place_and_a_remedy(
    here: Path, words: list[str], what: str, where: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = run(capsys, "validate", "recipe=recipe.yaml", *words)
    assert code == 3, report
    matching = [block for block in blocks(report) if what in block["error"]]
    assert matching, report
    assert where in matching[0]["where"]
    assert fix in matching[0]["fix"]
    # What is set already is no remedy.
    assert "on_bad_sample" not in matching[0]["fix"] or "data.on_bad_sample=skip" not in words


@pytest.mark.parametrize("number", [3, 4, 5])
def test_rows_that_are_offered_are_there_and_do_not_overlap(
    here: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = BAD[number][0]
    _, report = run(capsys, "validate", "recipe=recipe.yaml", *words)
    offered = blocks(report)[-1]["fix"].replace("'", "").split(" ")
    assert run(capsys, "validate", "recipe=recipe.yaml", *words, *offered) == (0, "")
    (*_, stop), (*_, start, _) = ([int(end) for end in re.findall(r"\d+", word)] for word in [words[0], *offered][-2:])
    assert stop <= start


def test_a_recipe_that_is_not_there_is_answered_with_the_one_beside_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = run(capsys, "validate", "recipe=recipes.yaml")
    assert (code, blocks(report)[0]["fix"]) == (2, "recipe=recipe.yaml")
