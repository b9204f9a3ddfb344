"""`show` prints a recipe: it composes to the same config, and says where everything came from."""

from pathlib import Path

import pytest

from vlmforge.cli import main
from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.config.recipes import list_recipes

RECIPES = [found.name for found in list_recipes()]


def show(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = main(["show", *words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


@pytest.mark.parametrize("scale", ["full", "tiny"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_shown_composes_to_the_same_config(
    recipe: str, scale: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = tmp_path / "shown.yaml"
    words = (f"recipe={recipe}", f"scale={scale}", "stage.optimizer.lr=3e-7", "run.output_dir='yes'")
    shown.write_text(show(capsys, *words))
    again = load_config(Request("show", {"recipe": [str(shown)]}), with_data=False)
    first = load_config(Request("show", {"recipe": [recipe]}, words[1:]), with_data=False)
    assert again.config == first.config


def test_every_value_says_where_it_came_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("defaults:\n  - /model: tiny_llama\n  - _self_\nrun:\n  seed: 3\n")
    words = ("parallelism=single", "data=dates", "stage=sft", "stage.max_steps=2", "scale=tiny")
    lines = show(capsys, "recipe=mine.yaml", *words).splitlines()
    found = {line.split(":")[0].strip(): line.partition("  # ")[2] for line in lines if "  # " in line}
    assert found["max_steps"] == "command line: stage.max_steps=2"
    assert found["seed"] == "mine.yaml:5" or "  seed: 3  # mine.yaml:5" in lines
    assert found["hidden_size"] == "scale=tiny"
    assert found["labels"].endswith("configs/stage/sft.yaml:3")
    assert found["keep_last"] == "default"
    assert all("  # " in line for line in lines[2:] if line and not line.endswith(":"))


def test_trusting_code_is_never_written_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert "trust_remote_code" not in show(capsys, "recipe=quickstart", "model.trust_remote_code=true")


@pytest.mark.parametrize("name", ["mine.yml", "no suffix, a=b"])
def test_any_file_name_is_a_recipe(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    body = "defaults: [/model: tiny_llama, /data: dates, /stage: sft, _self_]\nstage: {max_steps: 1}\n"
    Path(name).write_text(body)
    assert f"max_steps: 1  # {name}:2" in show(capsys, f"recipe={name}")


def test_group_files_beside_a_recipe_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'a "b" c'
    (folder / "stage").mkdir(parents=True)
    monkeypatch.chdir(folder)
    Path("stage/sft.yaml").write_text("kind: sft\nmax_steps: 77\n")
    Path("mine.yaml").write_text("defaults: [/model: tiny_llama, /data: dates, /stage: sft, _self_]\n")
    assert "max_steps: 77  # stage/sft.yaml:2" in show(capsys, "recipe=mine.yaml")
