"""Finds recipes, group files and the folders that ship with vlmforge; reads no keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import vlmforge
from vlmforge.errors import ConfigError, Problem, nearest

YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class RecipeFile:
    """A recipe on disk.

    Attributes:
        name: what `run.name` is derived from: the recipe's name, or that of a file given by its path.
        path: the file.
    """

    name: str
    path: Path

    @property
    def run_name(self) -> str:
        """The default of `run.name`."""
        return self.name.replace("/", "-")


def installed_folder(name: str) -> Path:
    """`configs` or `recipes` as shipped: inside the package in a wheel, at the checkout's top otherwise."""
    package = Path(vlmforge.__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent.parent / name


def display_path(path: Path) -> str:
    """The path as a user would type it: relative below the working directory, else absolute."""
    absolute = Path(os.path.abspath(path))
    cwd = Path.cwd()
    return str(absolute.relative_to(cwd)) if absolute.is_relative_to(cwd) else str(absolute)


def recipe_folders() -> list[Path]:
    """Where names of recipes are looked up, first match wins."""
    folders = [Path("recipes").absolute(), installed_folder("recipes")]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def list_recipes() -> list[RecipeFile]:
    """Every recipe that can be named, sorted; the user's own hide ours of the same name."""
    found: dict[str, RecipeFile] = {}
    for folder in recipe_folders():
        for path in sorted(folder.rglob("*.yaml")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            found.setdefault(name, RecipeFile(name, path))
    return [found[name] for name in sorted(found)]


def locate_recipe(recipe: str) -> RecipeFile:
    """The file that `recipe=` means: a path, else a name below `./recipes` or the installed recipes.

    Raises:
        ConfigError: there is no such file or name.
    """
    path = Path(recipe)
    if recipe.endswith(YAML_SUFFIXES) or path.is_file():
        if path.is_file():
            return RecipeFile(_name_of_file(path), path)
        raise ConfigError(_unknown(recipe, "no such file"))
    for folder in recipe_folders():
        candidate = folder / f"{recipe}.yaml"
        if recipe and candidate.is_file():
            return RecipeFile(recipe, candidate)
    raise ConfigError(_unknown(recipe, "no such recipe"))


def _name_of_file(path: Path) -> str:
    """The name of a recipe given by its path; a run's own `recipe.yaml` takes the name of its folder."""
    absolute = path.absolute()
    for folder in recipe_folders():
        if absolute.is_relative_to(folder):
            return absolute.relative_to(folder).with_suffix("").as_posix()
    return f"{absolute.parent.name}-recipe" if path.stem == "recipe" else path.stem


def _unknown(recipe: str, reason: str) -> Problem:
    where = f"command line: recipe={recipe}"
    beside = [path.name for path in Path(recipe).parent.glob("*") if path.suffix in YAML_SUFFIXES]
    if recipe.endswith(YAML_SUFFIXES) and (near := nearest(Path(recipe).name, beside, limit=1)):
        return Problem(f"recipe = {recipe}: {reason}", where, f"recipe={Path(recipe).with_name(near[0])}")
    names = [found.name for found in list_recipes()]
    near = nearest(Path(recipe).with_suffix("").as_posix().removeprefix("recipes/"), names) or names[:3]
    fix = " or ".join(f"recipe={name}" for name in near) or "recipe=path/to/recipe.yaml"
    return Problem(
        what=f"recipe = {recipe}: {reason}",
        where=where,
        fix=f"{fix}; `vlmforge recipes` lists all",
    )


def group_folders(recipe: RecipeFile) -> list[Path]:
    """Where group files are looked up: beside the recipe, then those shipped."""
    return [recipe.path.absolute().parent, installed_folder("configs")]


def find_group_file(recipe: RecipeFile, name: str) -> Path | None:
    """The file of `group/option`; null when there is none."""
    for folder in group_folders(recipe):
        candidate = folder / f"{name}.yaml"
        if candidate.is_file():
            return candidate
    return None


def group_options(recipe: RecipeFile, group: str) -> list[str]:
    """Every option of a group that this recipe can name, sorted; a folder `parts` holds what its files share."""

    def options() -> Iterator[str]:
        for folder in group_folders(recipe):
            for path in (folder / group).rglob("*.yaml"):
                option = path.relative_to(folder / group).with_suffix("")
                if option.parts[0] != "parts":
                    yield option.as_posix()

    return sorted(set(options()))


def summary_of(path: Path) -> str:
    """The first comment line of a file, without its mark."""
    first = path.read_text(encoding="utf-8").lstrip().partition("\n")[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""
