"""The way of docs/data.md from a folder of images and a CSV, walked with its own recipes and its own commands."""

import re
from pathlib import Path

import pytest

from vlmforge.cli import main
from vlmforge.data.draw import draw_square

GUIDE = (Path(__file__).parents[1] / "docs/data.md").read_text().partition("## The keys at a glance")[0]
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
    page = (folder / "preview.html").read_text()
    assert page.count("<figure>") == page.count('data-image="1"') > 0
    assert "5 x 1 tiles and the whole" in page
    assert "chats#" in (folder / "blend.html").read_text()
