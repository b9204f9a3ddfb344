"""Every recipe passes the gates, at full size and tiny, and no group file is left alone."""

from pathlib import Path

import pytest

from vlmforge.cli import main
from vlmforge.config.recipes import installed_folder, list_recipes
from vlmforge.config.schema import GROUPS
from vlmforge.config.yaml_lines import read_yaml

RECIPES = list_recipes()
NAMES = [found.name for found in RECIPES]


@pytest.fixture(autouse=True)
def _outside_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture
def without_gate_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """It builds the model on the meta device, which full sizes show."""
    monkeypatch.setattr("vlmforge.commands.validate._check_on_meta", lambda config: [])


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_passes_every_gate_at_full_size(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["validate", f"recipe={name}", "check_data=false"])
    assert code == 0, capsys.readouterr().err


@pytest.mark.usefixtures("without_gate_3")
@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_recipe_passes_with_its_data_on_four_ranks(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On one and on two it is trained, see `test_tiny.py`."""
    monkeypatch.chdir(tmp_path)
    code = main(["validate", f"recipe={name}", "scale=tiny", "parallelism=hsdp", "world_size=4"])
    assert code == 0, capsys.readouterr().err


@pytest.mark.usefixtures("without_gate_3")
@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_recipe_shown_is_a_recipe(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", f"recipe={name}", "scale=tiny"]) == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert main(["validate", f"recipe={shown}"]) == 0


@pytest.mark.parametrize("found", RECIPES, ids=NAMES)
def test_a_recipe_is_short_and_described(found: object) -> None:
    from vlmforge.config.recipes import RecipeFile

    assert isinstance(found, RecipeFile)
    lines = found.path.read_text().splitlines()
    assert len(lines) <= 30
    assert lines[0].startswith("# ")


def test_group_files_belong_to_a_group_and_are_described() -> None:
    configs = installed_folder("configs")
    for path in configs.glob("*/**/*.yaml"):
        assert path.relative_to(configs).parts[0] in GROUPS
        assert path.read_text().startswith("# "), path
        assert not read_yaml(path).faults
