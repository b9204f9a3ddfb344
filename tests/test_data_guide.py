"""What the pages on data show, done as it stands there: recipes, commands, and a folder that energon has prepared."""

import re
from pathlib import Path

import pytest
import webdataset

from vlmforge.cli import main
from vlmforge.data.draw import draw_square

DOCS = Path(__file__).parents[1] / "docs"
GUIDE = (DOCS / "data.md").read_text().partition("## The keys at a glance")[0]
PREPARED = (DOCS / "formats.md").read_text().partition("## A folder that energon has prepared")[2].partition("\n## ")[0]
COLOURS = {"red": (200, 30, 30), "green": (30, 150, 60), "blue": (40, 60, 200)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the guide starts from: pictures, captions, chats, and its recipes."""
    (tmp_path / "pictures").mkdir()
    lines = ["file,caption"]
    for number in range(240):
        name, colour = [*COLOURS.items()][number % 3]
        if number < 3:
            (tmp_path / f"pictures/{name}.png").write_bytes(draw_square(160 + 300 * number, 160, colour))
        lines.append(f'{name}.png,"A {name} square, number {number}."')
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    chat = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'
    (tmp_path / "chats.jsonl").write_text(chat * 20)
    for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL):
        (tmp_path / text.removeprefix("# ").partition(":")[0]).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return tmp_path


def test_the_commands_of_the_guide_work(folder, capsys):
    commands = re.findall(r"^vlmforge (.*)$", GUIDE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["validate", "preview", "train", "validate", "preview"]
    for command in commands:
        if not command.startswith("train"):
            assert main(command.split()) == 0, command
    out = capsys.readouterr().out
    assert "captions  70.0% of the samples" in out
    # On the terminal too, which of the pictures it is.
    assert re.search(r"\[image 1: 460 x 160 pixels, .*\d+ tokens: green\.png\]", out)
    page = (folder / "preview.html").read_text()
    assert page.count("<figure>") == page.count('data-image="1"') > 0
    assert "5 x 1 tiles and the whole" in page
    assert "chats#" in (folder / "blend.html").read_text()


@pytest.fixture
def birds(tmp_path, monkeypatch):
    """The folder that the page shows, and a recipe with its sources."""
    (tmp_path / "birds/.nv-meta").mkdir(parents=True)
    (tmp_path / "birds/shards").mkdir()
    blocks = re.findall(r"```(\w+)\n(.*?)```", PREPARED, re.DOTALL)
    for shard, members in re.findall(r"(shards/\S+)\s+(\d.*)", blocks[0][1]):
        with webdataset.TarWriter(str(tmp_path / "birds" / shard)) as writer:
            for key in sorted({member.partition(".")[0] for member in members.split()}):
                caption = {"caption": f"{Path(shard).stem} {key}"}
                writer.write({"__key__": key, "png": draw_square(64, 64, COLOURS["blue"]), "json": caption})
    for kind, text in blocks[1:4]:
        name = "birds/.nv-meta/.info.json" if kind == "json" else text.removeprefix("# ").partition("\n")[0]
        (tmp_path / name).write_text(text)
    parts = "[/model: quickstart_vl, /parallelism: single, /stage: sft, _self_]"
    stage = "stage: {seq_len: 1024, packing: best_fit, global_batch_size: 1, max_steps: 1}"
    (tmp_path / "birds.yaml").write_text(f"# Birds\ndefaults: {parts}\n{blocks[4][1]}{stage}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return tmp_path


def test_the_prepared_folder_of_the_page_is_read_as_it_stands(birds, capsys):
    assert main(["preview", "recipe=birds.yaml"]) == 0
    out = capsys.readouterr().out
    assert "step 1: 1 rows, 4 samples" in out
    told = ["train-0 000", "train-0 002", "train-1 000", "train-1 001"]
    assert sorted(re.findall(r"(?:train|val)-\d \d+", out)) == told
    old = "__class__: CaptioningWebdataset\nfield_map: {image: png, caption: 'json[caption]'}\n"
    (birds / "birds/.nv-meta/dataset.yaml").write_text(old)
    assert main(["preview", "recipe=birds.yaml", "data.train.0.split=val"]) == 0
    assert "step 1: 1 rows, 2 samples" in capsys.readouterr().out
