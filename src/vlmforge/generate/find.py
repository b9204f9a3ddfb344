"""What a user calls a checkpoint: a run folder, a step folder in one, a Hugging Face or PEFT folder, or a hub id.

Found before torch is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlmforge.checkpoint.steps import STATE_FILE, list_steps, step_folder
from vlmforge.errors import CheckpointError, Problem, nearest

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """Where a model is and in which of the layouts.

    Attributes:
        kind: `step`: sharded training state; `folder`: a Hugging Face folder; `peft`: an adapter; `hub`: an id.
        path: folder, or the hub id as a string.
        recipe: the run's recipe.yaml, when the checkpoint belongs to a run.
    """

    kind: Literal["step", "folder", "peft", "hub"]
    path: str
    recipe: Path | None = None


def find_checkpoint(name: str, output_dir: str = "runs") -> Checkpoint:
    """What `checkpoint=name` means: an existing path first, then a hub id.

    Raises:
        CheckpointError: neither, or a folder that holds no model; names the nearest runs.
    """
    path = Path(name)
    if path.is_dir():
        return _classify(path)
    # A name below the folder of runs is a run that is not there, not a hub id.
    if HUB_ID.fullmatch(name) and path.parent != Path(output_dir):
        return Checkpoint("hub", name)
    runs = [folder.name for folder in Path(output_dir).glob("*") if (folder / "recipe.yaml").is_file()]
    near = nearest(path.name, runs) or sorted(runs)[:3]
    known = ", ".join(f"checkpoint={output_dir}/{run}" for run in near)
    problem = Problem(
        f"checkpoint = {name} is no folder, and no hub id of the form owner/name",
        f"command line: checkpoint={name}",
        known or f"give a run folder (there is none in {output_dir}/ yet), a Hugging Face folder or a hub id",
    )
    raise CheckpointError(problem)


def _classify(path: Path) -> Checkpoint:
    if (path / "recipe.yaml").is_file():
        return _newest_of_run(path)
    if (path / STATE_FILE).is_file():
        recipe = path.parent.parent / "recipe.yaml"
        if not recipe.is_file():
            problem = Problem(
                f"checkpoint = {path} is a step of a run, but {recipe} is not there to say of which model",
                str(path),
                "give a step folder inside its run folder, or the run's export/",
            )
            raise CheckpointError(problem)
        return Checkpoint("step", str(path), recipe)
    recipe = path.parent / "recipe.yaml"
    owner = recipe if path.name == "export" and recipe.is_file() else None
    if (path / "adapter_config.json").is_file():
        return Checkpoint("peft", str(path), owner)
    if (path / "config.json").is_file():
        return Checkpoint("folder", str(path), owner)
    problem = Problem(
        f"checkpoint = {path} holds no recipe.yaml, state.json, adapter_config.json or config.json",
        str(path),
        "give a run folder, one of its checkpoints/step-… folders, a Hugging Face folder or a PEFT folder",
    )
    raise CheckpointError(problem)


def _newest_of_run(run: Path) -> Checkpoint:
    steps = list_steps(run / "checkpoints")
    if (run / "export").is_dir():
        return _classify(run / "export")
    if steps:
        return Checkpoint("step", str(step_folder(run / "checkpoints", steps[-1])), run / "recipe.yaml")
    problem = Problem(
        f"run {run} has neither export/ nor a checkpoint yet",
        str(run),
        "let it train to its first checkpoint (checkpointing.every_steps), then try again",
    )
    raise CheckpointError(problem)
