"""The list of recipes, and the help."""

from pathlib import Path

import pytest

from vlmforge import __version__
from vlmforge.cli import VERBS, main, parse_request
from vlmforge.config.recipes import locate_recipe
from vlmforge.errors import ConfigError


def test_recipes_are_listed_with_their_first_comment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["recipe", "model", "stage", "mesh", "what", "it", "does"]
    quickstart = next(line for line in lines if line.startswith("quickstart "))
    assert "stitched (random)" in quickstart
    assert quickstart.endswith(
        "A small model that sees learns from nothing to read handwritten numbers, in two minutes on a CPU"
    )


def test_a_users_recipes_are_listed_and_a_broken_one_hides_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    Path("recipes/quickstart.yaml").write_text("# Mine\nstage: {kind: lora}\n")
    Path("recipes/broken.yaml").write_text("stage: [")
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("quickstart ") and line.endswith("Mine") for line in lines)
    assert any(line.startswith("broken ") and "validate recipe=broken" in line for line in lines)
    assert any(line.startswith("smollm2/gsm8k_sft ") for line in lines)


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("mine.yaml", "mine"),
        ("recipes/a/b.yaml", "a-b"),
        ("a/b", "a-b"),
        ("runs/first/recipe.yaml", "first-recipe"),
    ],
)
def test_a_run_is_named_after_its_recipe(
    recipe: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("mine.yaml", "recipes/a/b.yaml", "runs/first/recipe.yaml"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    assert locate_recipe(recipe).run_name == name


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in VERBS)
    assert main([]) == 0


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_of_a_verb_has_its_arguments_and_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {argument} " in text for argument in VERBS[verb].arguments)
    assert f"  vlmforge {verb}" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vlmforge {__version__}\n"


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian", "recipe=x"]) == 2
    assert "fix:   vlmforge train" in capsys.readouterr().err


def test_arguments_are_split_at_the_first_equals_sign_and_taken_verbatim() -> None:
    request = parse_request(["generate", "prompt=What's 1=1, {a}?", "prompt=", "stage.seed=1", "checkpoint=a"])
    assert request.all("prompt") == ["What's 1=1, {a}?", ""]
    assert request.one("checkpoint") == "a"
    assert request.overrides == ("stage.seed=1",)


def test_an_argument_of_another_verb_is_refused() -> None:
    with pytest.raises(ConfigError, match="prompt is not an argument of `vlmforge show`"):
        parse_request(["show", "recipe=quickstart", "prompt=hello"])


def test_an_argument_that_has_one_value_is_not_given_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "recipe=quickstart", "recipe=quickstart"]) == 2
    assert "recipe is given 2 times" in capsys.readouterr().err


def test_a_recipe_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show"]) == 2
    assert "fix:   vlmforge show recipe=quickstart" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (RuntimeError("a bug"), 1)])
def test_an_interrupt_is_130_and_a_bug_is_1(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: object) -> int:
        raise error

    monkeypatch.setattr("vlmforge.commands.recipes.run", fail)
    assert main(["recipes"]) == code
    assert ("a bug" in capsys.readouterr().err) == (code == 1)
