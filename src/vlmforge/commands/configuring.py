"""From a request to a config that has passed gates 1 and 2; every command that takes a recipe starts here.

Nothing here imports torch, transformers or datasets, so that a mistake is answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmforge.commands.request import Request
from vlmforge.config.check import RULES, check
from vlmforge.config.compose import compose
from vlmforge.config.decode import decode
from vlmforge.config.derived import BatchSizes, count_gpus, derive_batch, derive_world_size
from vlmforge.config.facts import Facts
from vlmforge.config.origins import Origins
from vlmforge.config.recipes import installed_folder
from vlmforge.config.rules import machine
from vlmforge.config.rules.finding import Rule, Subject
from vlmforge.config.rules.stage import check_sampling
from vlmforge.config.schema import Config
from vlmforge.data.formats import FORMATS
from vlmforge.errors import ConfigError, DataError, Problem
from vlmforge.evaluate import TASKS
from vlmforge.models import FAMILIES


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that can be run.

    Attributes:
        config: decoded and checked.
        origins: where each value was said.
        recipe_name: what `vlmforge recipes` calls it, or a name made of its path.
        recipe_path: its file.
        run_name: `run.name`, or the one derived from the recipe's name.
        batch: ranks, and how they cut the global batch.
    """

    config: Config
    origins: Origins
    recipe_name: str
    recipe_path: Path
    run_name: str
    batch: BatchSizes


def load_config(
    request: Request, *, with_data: bool = True, runs_here: bool = False, environ: Mapping[str, str] | None = None
) -> LoadedRecipe:
    """Compose, decode and check the recipe of a request (gates 1 and 2).

    Args:
        request: its `recipe`, `world_size`, `check_data` and overrides are read.
        with_data: whether the command needs data at all; `check_data=false` skips gate 2 too.
        runs_here: whether this machine is the one that trains, so that what it lacks is an error.
        environ: for torchrun's WORLD_SIZE; null: this process's.

    Raises:
        ConfigError: anything is wrong with the config; problems of the data are listed too.
        DataError: only the data is wrong.
    """
    environ = os.environ if environ is None else environ
    recipe = request.required("recipe", "quickstart")
    world_size = request.number("world_size") or _torchrun_world_size(environ)
    with_data = request.flag("check_data", default=True) and with_data

    composed = compose(recipe, request.overrides, FAMILIES)
    decoded = decode(composed.values, composed.origins)
    config = decoded.config
    num_gpus = count_gpus(config, environ)
    facts = Facts(FAMILIES, FORMATS, TASKS, world_size, num_gpus, composed.stated_shape)
    problems = [
        *composed.problems,
        *decoded.problems,
        *check(
            config,
            composed.origins,
            facts,
            decoded.bad | composed.missing,
            RULES + (machine.RULES if runs_here and is_local(config, world_size) else ()),
        ),
    ]
    data_problems = _check_data(Subject(config, composed.origins, facts)) if with_data else []
    if problems:
        raise ConfigError(_without_repeats([*problems, *data_problems]))
    if data_problems:
        raise DataError(data_problems)
    return LoadedRecipe(
        config=config,
        origins=composed.origins,
        recipe_name=composed.recipe.name,
        recipe_path=composed.recipe.path,
        # A tiny trial must not take the folder of the run that it tries out.
        run_name=config.run.name or composed.recipe.run_name + ("-tiny" if config.scale.name == "tiny" else ""),
        batch=derive_batch(config, derive_world_size(config, world_size, num_gpus)),
    )


def load_settings(request: Request, recipe: str | None = None, rules: Sequence[Rule] = (check_sampling,)) -> Config:
    """Compose and decode a recipe whose model is elsewhere: keys, types, ranges and some rules are checked.

    Args:
        request: its overrides are read.
        recipe: name or path; null: the shipped settings for a checkpoint that has no recipe of its own.
        rules: which, sampling by default.

    Raises:
        ConfigError: an override or the file is wrong.
    """
    recipe = recipe or str(installed_folder("configs") / "generate.yaml")
    composed = compose(recipe, request.overrides, FAMILIES)
    decoded = decode(composed.values, composed.origins)
    facts = Facts(FAMILIES, FORMATS, TASKS, None, 0, composed.stated_shape)
    problems = [
        *composed.problems,
        *decoded.problems,
        *check(decoded.config, composed.origins, facts, decoded.bad, rules=rules),
    ]
    if problems:
        raise ConfigError(problems)
    return decoded.config


def is_local(config: Config, world_size: int | None) -> bool:
    """Whether the ranks of a run are on this machine: it starts them itself, or is one of those that were started."""
    return config.launch.kind == "local" or world_size is not None


def _torchrun_world_size(environ: Mapping[str, str]) -> int | None:
    given = environ.get("WORLD_SIZE", "")
    return int(given) if given.isdigit() and int(given) > 0 else None


def _check_data(subject: Subject) -> list[Problem]:
    """Gate 2: files and columns; imported late because it reads parquet files with pyarrow."""
    from vlmforge.data.check import check_data

    shape = subject.shape()
    family = subject.facts.families.get(shape.family or "") if shape is not None else None
    return check_data(subject.config, subject.origins, sees=family is None or bool(family.image_keys))


def _without_repeats(problems: list[Problem]) -> list[Problem]:
    """A bad value can be found by both gates; the first to say so is enough."""
    return list(dict.fromkeys(problems))
