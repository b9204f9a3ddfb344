"""The door to Hydra: composes a recipe and the command line's overrides into one plain dict.

Hydra reads the recipe and its group files and merges them. It does not see the values of the command line, because
it stops at the first bad one and refuses keys that no YAML mentions: they are parsed one by one, then applied to the
composed dict. Keys that do not exist are left for the decoder, which knows all of them.

This is the only file that imports hydra or omegaconf. Hydra configures no logging here and makes no folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlmforge.config.facts import FamilyFacts
from vlmforge.config.layers import (
    Layer,
    check_body,
    check_choices,
    check_defaults,
    distrust_files,
    find_lost,
    find_origins,
    has_option,
    is_tiny,
    leave_out,
    named_groups,
)
from vlmforge.config.origins import Origins
from vlmforge.config.overrides import Choice, Setting, apply_settings, command_line, find_unknown_resets, quoted
from vlmforge.config.plain import is_list, is_plain, is_section, merge
from vlmforge.config.pretrained import Stated, drop_stated_shape
from vlmforge.config.recipes import (
    RecipeFile,
    display_path,
    find_group_file,
    group_folders,
    locate_recipe,
)
from vlmforge.config.scale import apply_tiny, chooses_mesh
from vlmforge.config.schema import GROUPS, SECTIONS
from vlmforge.config.yaml_lines import YamlFile, read_yaml
from vlmforge.errors import ConfigError, Problem

# The name under which Hydra sees the recipe; a user's own file beside it cannot have it by accident.
PRIMARY = "_vlmforge_recipe_"


@dataclass(frozen=True)
class Composed:
    """A recipe with its group files, scale and overrides merged; nothing is decoded yet.

    Attributes:
        recipe: the file it came from.
        values: nested plain dict, sections at the top.
        origins: where each value was said.
        stated_shape: `model.config` as the model's group file states it, before any override.
        problems: what is wrong so far; the values are as good as they could be made.
        missing: sections that a file should have given and could not.
    """

    recipe: RecipeFile
    values: dict[str, Any]
    origins: Origins
    stated_shape: Mapping[str, Any]
    problems: tuple[Problem, ...]
    missing: frozenset[str] = frozenset()


def compose(recipe: str, overrides: Sequence[str], families: Mapping[str, FamilyFacts]) -> Composed:
    """Compose a recipe.

    Args:
        recipe: what `recipe=` says.
        overrides: the rest of the command line, in Hydra's grammar.
        families: for `scale=tiny`, which knows nothing of families itself.

    Returns:
        What could be composed. Where a file is broken, that is the command line's part alone, so that its mistakes
        are found too.

    Raises:
        ConfigError: there is no such recipe.
    """
    found = locate_recipe(recipe)
    choices, settings, problems = parse_overrides(overrides)
    problems += [*check_choices(found, choices), *find_unknown_resets(settings)]
    choices = [choice for choice in choices if has_option(found, choice)]
    try:
        return _compose_files(found, choices, settings, problems, families)
    except ConfigError as error:
        values: dict[str, Any] = {}
        origins = Origins(fallback=f"{display_path(found.path)}:1")
        problems += [*error.problems, *apply_settings(settings, values, origins)]
        return Composed(found, values, origins, {}, tuple(problems), frozenset((*GROUPS, *SECTIONS)))


def _compose_files(
    found: RecipeFile,
    choices: list[Choice],
    settings: list[Setting],
    earlier: list[Problem],
    families: Mapping[str, FamilyFacts],
) -> Composed:
    """Compose a recipe that exists; what is wrong with a file as a whole is raised."""
    primary = read_yaml(found.path)
    problems = list(earlier)
    unusable = [*primary.faults, *check_defaults(primary)]
    if unusable:
        raise ConfigError([*unusable, *primary.refused.values()])
    lost = find_lost(found, primary)
    problems += lost.values()
    missing = frozenset(lost) - {choice.group for choice in choices}
    layers, values = _merge_files(found, primary, choices, missing)
    faults = [fault for layer in layers for fault in layer.file.faults]
    if faults:
        raise ConfigError(faults)
    for layer in layers:
        problems += layer.file.refused.values()
        leave_out(layer, values)

    origins = find_origins(primary, layers)
    stated = _find_stated(layers)
    problems += check_body(layers, choices, primary)
    drop_stated_shape(values, origins, stated)
    if is_tiny(layers):
        apply_tiny(values, origins, families, keep_mesh=chooses_mesh(choices, settings))
    problems += apply_settings(settings, values, origins)
    drop_stated_shape(values, origins, stated)
    values, unresolved = _resolve(values, origins)
    problems += [*unresolved, *distrust_files(values, origins)]
    return Composed(found, values, origins, stated.shape_of(origins), tuple(problems), missing)


def parse_overrides(overrides: Sequence[str]) -> tuple[list[Choice], list[Setting], list[Problem]]:
    """Parse every override alone, so that all mistakes are found; split group choices from values."""
    parser = OverridesParser.create()
    choices: dict[str, Choice] = {}
    settings: list[Setting] = []
    problems: list[Problem] = []
    for text in overrides:
        parsed = _parse_override(parser, text)
        if isinstance(parsed, Problem):
            problems.append(parsed)
        elif isinstance(parsed, Choice):
            choices[parsed.group] = parsed
        else:
            settings.append(parsed)
    return list(choices.values()), settings, problems


def _parse_override(parser: OverridesParser, text: str) -> Choice | Setting | Problem:
    try:
        parsed = parser.parse_override(text)
    except HydraException:
        return _grammar_problem(parser, text)
    key = parsed.key_or_group
    problem = _unsupported(parsed, text)
    if problem is not None:
        return problem
    value = parsed.value()
    if parsed.is_delete():
        return Setting(key, None, text, is_reset=True)
    if key not in GROUPS or isinstance(value, dict):
        return Setting(key, value, text)
    if isinstance(value, str) and value:
        return Choice(key, value, text)
    return Problem(
        what=f"{text}: {key} is a group, so its value is the name of one of its files",
        where=command_line(text),
        fix=f"{key}=NAME, or set a key of it: {key}.KEY=VALUE",
    )


def _unsupported(parsed: Override, text: str) -> Problem | None:
    """What Hydra's grammar allows and a recipe has no use for."""
    key = parsed.key_or_group
    value = parsed.value()
    if parsed.package is not None or "/" in key:
        return Problem(
            what=f"{text}: a key is written with dots, and groups are not moved to other packages",
            where=command_line(text),
            fix=f"{key.replace('/', '.')}=VALUE",
        )
    if key.split(".")[0] == "hydra":
        return Problem(what="hydra is not a key", where=command_line(text), fix="remove it")
    if key == "scale.name" or (key == "scale" and not isinstance(value, str)):
        fix = f"scale={value if isinstance(value, str) and value else 'full'}"
        return Problem(what=f"{text}: the scale is chosen as a group", where=command_line(text), fix=fix)
    if isinstance(value, Sweep):
        written = text.partition("=")[2]
        return Problem(
            what=f"{key} = {written}: a run has one value for each key, not a sweep of them",
            where=command_line(text),
            fix=f"a list is  '{key}=[{written}]' ; text with commas is  {quoted(key, written)}",
        )
    if not is_plain(value):
        written = text.partition("=")[2]
        return Problem(
            what=f"{key} = {written}: a value is a number, text, a list, or a mapping whose names are text",
            where=command_line(text),
            fix=f"text is  {quoted(key, written)}",
        )
    return None


def _grammar_problem(parser: OverridesParser, text: str) -> Problem:
    key, equals, value = text.partition("=")
    remedy = quoted(key, value)
    try:
        parser.parse_override(f'{key}="x"')
    except HydraException:
        equals = ""
    return Problem(
        what=f"{text} cannot be read as key=value" + (": the value needs quotes" if equals else ""),
        where=command_line(text),
        fix=remedy if equals else "write overrides as  section.key=value , for example  stage.max_steps=10",
    )


def _merge_files(
    recipe: RecipeFile, primary: YamlFile, choices: list[Choice], missing: frozenset[str]
) -> tuple[list[Layer], dict[str, Any]]:
    """Let Hydra merge the files; returns them in merge order, and the result."""
    named = named_groups(primary)
    given = [f"{'' if choice.group in named else '+'}{choice.group}={choice.option}" for choice in choices]
    given += [f"~{group}" for group in missing]
    searched = ", ".join(_quoted_url(folder) for folder in group_folders(recipe))
    given.append(f"hydra.searchpath=[{searched}]")
    try:
        with _hydra(recipe) as loader:
            defaults = loader.compute_defaults_list(PRIMARY, given, RunMode.RUN).defaults
            layers = [layer for item in defaults if (layer := _layer(item, recipe, primary)) is not None]
            # Read before Hydra does, so that a broken file is reported with its line.
            composed = hydra_compose(PRIMARY, given)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(
            Problem(
                what=f"the recipe cannot be composed: {str(error).partition(chr(10))[0]}",
                where=primary.where(),
                fix="check its defaults list: `- /group: option` for each part, then `- _self_`",
            )
        ) from error
    values: Any = OmegaConf.to_container(composed, resolve=False)
    return layers, values


def _quoted_url(folder: Path) -> str:
    escaped = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    return f'"file://{escaped}"'


@contextmanager
def _hydra(recipe: RecipeFile) -> Generator[ConfigLoader]:
    """Hydra with the recipe as its primary config.

    Hydra reads only names that end in `.yaml`, and splits them at characters that are fine in a file's name. It is
    given a copy under a plain name; the recipe's own folder comes first in the search path.
    """
    with tempfile.TemporaryDirectory(prefix="vlmforge-") as folder:
        Path(folder, f"{PRIMARY}.yaml").write_bytes(recipe.path.read_bytes())
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(config_dir=folder, job_name="vlmforge", version_base="1.3"):
                yield GlobalHydra.instance().config_loader()
        finally:
            GlobalHydra.instance().clear()


def _layer(item: Any, recipe: RecipeFile, primary: YamlFile) -> Layer | None:
    """A file of Hydra's defaults list; Hydra's own are left out."""
    name: str | None = item.config_path
    if name is None or name.split("/")[0] == "hydra":
        return None
    if name == PRIMARY:
        return Layer(primary, "", is_group=False)
    path = find_group_file(recipe, name)
    return Layer(read_yaml(path), item.package or "", is_group=True) if path is not None else None


def _find_stated(layers: list[Layer]) -> Stated:
    """What the model's group files say, before any recipe or override."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        if layer.package != "model":
            continue
        content: Any = OmegaConf.to_container(OmegaConf.load(layer.file.path), resolve=False)
        shape = content.get("config")
        values = merge(values, shape if is_section(shape) else {})
        origins.update({".".join(("model", *entry.path)): layer.file.where(entry.line) for entry in layer.file.entries})
    return Stated(values, origins)


def _resolve(values: dict[str, Any], origins: Origins) -> tuple[dict[str, Any], list[Problem]]:
    """Resolve `${...}` after the overrides, so that a reference follows what the command line says."""
    root = OmegaConf.create(values)
    problems: list[Problem] = []

    def resolve(value: Any, path: str) -> Any:
        if is_section(value):
            return {name: resolve(item, f"{path}.{name}" if path else str(name)) for name, item in value.items()}
        if is_list(value):
            return [resolve(item, f"{path}.{index}") for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            found = OmegaConf.select(root, path, throw_on_resolution_failure=True)
        except OmegaConfBaseException as error:
            problems.append(
                Problem(
                    what=f"{path} = {value}: {str(error).partition(chr(10))[0]}",
                    where=origins.where(path),
                    fix="refer to a key that is set, for example ${stage.seq_len}, or write the value itself",
                )
            )
            return None
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found

    return resolve(values, ""), problems
