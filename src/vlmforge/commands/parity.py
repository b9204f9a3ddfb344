"""`vlmforge parity`: does a mesh train the model that one process trains, and that plain transformers would train?

The recipe's model is reduced (same classes, same heads, two layers, float32) and trained for a few steps three times on
the same global batches: on the mesh, on one process, and by a plain transformers and peft loop.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmforge.commands.configuring import LoadedRecipe, load_config
from vlmforge.commands.rank import run_as_rank
from vlmforge.commands.request import Request
from vlmforge.config.derived import Axes
from vlmforge.config.encode import encode_absolute, to_yaml
from vlmforge.config.pretrained import derive_shape
from vlmforge.config.reduce import reduce_config
from vlmforge.config.schema import Config
from vlmforge.errors import EXIT_OK, ConfigError, Problem
from vlmforge.models import FAMILIES
from vlmforge.parallel.launch import ERROR_FILE, launch_ranks

if TYPE_CHECKING:
    from vlmforge.train.parity import Record

RECIPE_FILE = "reduced.yaml"
MESH = "mesh"
KILLED_FIX = "fewer ranks: the reduced model is small, but every rank is a process with torch in it"


def run(request: Request) -> int:
    """Compare a mesh with one process and with a plain loop.

    Returns:
        0 when every difference is within its bound, 1 when one is not.

    Raises:
        VlmforgeError: the recipe is wrong, or the mesh is refused for it.
    """
    if ERROR_FILE in os.environ:
        return run_as_rank(request, _run_rank)
    _refuse_torchrun()
    loaded = load_config(request, with_data=False)
    _check_in_full(loaded)
    with tempfile.TemporaryDirectory(prefix="vlmforge-parity-") as name:
        folder = Path(request.one("output") or name)
        folder.mkdir(parents=True, exist_ok=True)
        return _compare(loaded, folder)


def _refuse_torchrun() -> None:
    if "WORLD_SIZE" in os.environ:
        what = "vlmforge parity starts its ranks on this machine itself, and here torchrun has started one already"
        raise ConfigError(Problem(what, "environment: WORLD_SIZE", "run it without torchrun"))


def _check_in_full(loaded: LoadedRecipe) -> None:
    """Gate 3 of the recipe as it is: what is refused for the full model must not pass for the reduced one."""
    from vlmforge.models.build import check_on_meta

    if loaded.config.stage.kind == "generate":
        what = "stage.kind = generate trains nothing that could be compared"
        raise ConfigError(Problem(what, f"recipe {loaded.recipe_name}", "stage.kind=sft, or another recipe"))
    if problems := check_on_meta(loaded.config):
        raise ConfigError(problems)


def _compare(loaded: LoadedRecipe, folder: Path) -> int:
    """Make the reduced model, record all three trainings, say how they differ."""
    from vlmforge.commands.parity_report import describe_model, report
    from vlmforge.train.parity import Record

    axes = loaded.batch.axes
    reduced = make_reduced(loaded, folder)
    (folder / RECIPE_FILE).write_text(to_yaml(encode_absolute(reduced)))
    print(describe_model(loaded, reduced), flush=True)
    print(f"training on the mesh ({axes.world_size} processes) ...", flush=True)
    if code := launch_ranks(_rank_words(folder), axes.world_size, KILLED_FIX, saves=False):
        return code
    one, plain = _record_here(reduced, folder)
    return report(Record.load(folder / MESH), one, plain)


def make_reduced(loaded: LoadedRecipe, folder: Path) -> Config:
    """The reduced recipe, with weights that are drawn for it into a folder."""
    from vlmforge.models.plain import make_adapter, make_base

    shape = derive_shape(loaded.config.model, FAMILIES)
    reduced = reduce_config(loaded.config, shape, loaded.batch.axes, FAMILIES)
    make_base(reduced, folder / "base")
    if reduced.stage.adapter is not None:
        make_adapter(reduced, folder / "base", folder / "adapter")
    return _with_weights(reduced, folder)


def _with_weights(config: Config, folder: Path) -> Config:
    """The reduced recipe with the weights that were drawn for it."""
    model = replace(config.model, family=None, config={}, pretrained=str(folder / "base"), init="pretrained")
    adapter, stage = config.stage.adapter, config.stage
    if adapter is not None:
        stage = replace(stage, adapter=replace(adapter, path=str(folder / "adapter")))
    return replace(config, model=model, stage=stage)


def _rank_words(folder: Path) -> list[str]:
    return ["parity", f"recipe={folder / RECIPE_FILE}", f"output={folder}"]


def _run_rank(request: Request) -> int:
    """One rank of the mesh; the first one writes what came of it."""
    from vlmforge.commands.parity_report import step_teller
    from vlmforge.parallel.mesh import open_world
    from vlmforge.train.recording import record_mesh

    # Only the first rank has a terminal.
    tell = step_teller()
    loaded = load_config(request)
    launch = loaded.config.launch
    with open_world(loaded.batch.axes, launch.device, launch.timeout_seconds) as world:
        record = record_mesh(loaded.config, world, tell)
        if world.is_main:
            record.save(Path(request.required("output", "FOLDER")) / MESH)
    return EXIT_OK


def _record_here(reduced: Config, folder: Path) -> tuple[Record, Record]:
    """The same on one process, and by the plain loop."""
    from vlmforge.commands.parity_report import step_teller
    from vlmforge.parallel.mesh import open_world
    from vlmforge.train.plain_loop import record_plain
    from vlmforge.train.recording import record_mesh

    alone = replace(reduced, parallelism=replace(reduced.parallelism, **asdict(Axes())))
    print("training on one process ...", flush=True)
    with open_world(Axes(), reduced.launch.device, reduced.launch.timeout_seconds) as world:
        one = record_mesh(alone, world, step_teller())
    print("training by a plain loop ...", flush=True)
    return one, record_plain(reduced, step_teller())
