"""The README's commands are the ones that are run."""

import re
import subprocess
from pathlib import Path

import pytest

from vlmforge.cli import VERBS, main
from vlmforge.config.recipes import list_recipes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(path: Path) -> list[str]:
    """Every line of a shell block that calls vlmforge, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("vlmforge ")]


def test_it_begins_with_the_main_job_and_the_tests() -> None:
    first, second = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)[:2]
    assert first.strip().endswith("&& vlmforge train recipe=quickstart")
    assert second.strip().endswith("&& pytest -q")
    assert "\n" not in first.strip()
    assert "\n" not in second.strip()


def test_ci_runs_the_command_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert "grep --max-count=1 'pytest -q$' README.md" in script
    assert subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=False).returncode == 0


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_command_in_the_docs_names_a_verb_and_a_recipe_that_exist(path: Path) -> None:
    names = {recipe.name for recipe in list_recipes()}
    for line in commands(path):
        words = line.split()
        assert words[1] in VERBS, line
        for word in words:
            if word.startswith("recipe=") and not word.endswith(".yaml") and word != "recipe=R":
                assert word.removeprefix("recipe=") in names, line


def test_links_lead_somewhere() -> None:
    for path in DOCS:
        for target in re.findall(r'\]\(([^)#:\s]+)(?: "[^"]*")?\)', path.read_text()):
            assert (path.parent / target).exists(), (path.name, target)


def test_the_recipe_of_the_readme_validates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    (tmp_path / "my_run.yaml").write_text(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    assert main(["validate", "recipe=my_run.yaml", "check_data=false"]) == 0
    assert capsys.readouterr().out.startswith("ok: my_run")


def test_the_recipe_of_the_guide_to_parts_validates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    model, pretrain, _ = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/nvlm.md").read_text(), re.DOTALL)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/small_nvlm.yaml").write_text(model)
    (tmp_path / "pretrain.yaml").write_text(pretrain)
    assert main(["validate", "recipe=pretrain.yaml", "scale=tiny"]) == 0, capsys.readouterr().err


def test_the_mistake_of_the_readme_is_told_as_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    command, _, report = re.findall(r"```text\n\$ (.*?)```", README, re.DOTALL)[0].partition("\n")
    assert main(command.split()[1:]) == 2
    assert capsys.readouterr().err == report
