"""The run folder: whether a run is new, goes on, or is done, and the names of its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmforge.checkpoint.steps import list_steps, step_folder
from vlmforge.checkpoint.store import read_json, read_state
from vlmforge.config.encode import encode_absolute, scalar_text
from vlmforge.config.schema import Config
from vlmforge.data.mixture import Length
from vlmforge.errors import CheckpointError, Problem
from vlmforge.observe.files import write_json

# What a run may be continued with: how long, how it is started and watched, and on which mesh.
MAY_DIFFER = (
    "run.name",
    "run.output_dir",
    "run.stop_after_steps",
    "model.kernels",
    "stage.max_steps",
    "stage.micro_batch_size",
    "stage.max_tokens_per_micro_batch",
    "stage.generation",
    "data.num_workers",
    # No sample of the steps that are done was bad where the first one stops a run.
    "data.on_bad_sample",
    "data.max_bad_ratio",
    "parallelism.cp",
    "parallelism.dp_replicate",
    "parallelism.dp_shard",
    "parallelism.tp",
    "parallelism.ep",
    "parallelism.recompute",
    "logging",
    "launch",
    "checkpointing",
    "evaluate",
)


# What tells the content of a file in a fingerprint; of what has none of them the name does.
FILE_MARKS = ("size_bytes", "sha256_of_ends", "sha256_of_meta", "version")

# How much of a comparison with another recipe is shown: differences, and characters of a value.
SHOWN_DIFFERENCES = 6
SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class RunFolder:
    """Where a run lives and from where it starts.

    Attributes:
        path: the folder.
        resume_from: step folder to go on from; None: from the beginning.
    """

    path: Path
    resume_from: Path | None

    @property
    def checkpoints(self) -> Path:
        """Folder of step folders."""
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        """Folder of the exported model."""
        return self.path / "export"

    @property
    def merged(self) -> Path:
        """Folder of the base model with the adapter merged into it."""
        return self.path / "merged"

    @property
    def manifest(self) -> Path:
        """Versions, mesh, data, and the recipe as it was resolved."""
        return self.path / "manifest.json"


def find_run(config: Config) -> RunFolder:
    """Decide from what is on disk how this run starts; reads only, so that every rank decides the same.

    Raises:
        CheckpointError: the folder belongs to another recipe, or must not exist.
    """
    assert config.run.name is not None, "the command derives a name from the recipe's"
    path = Path(config.run.output_dir) / config.run.name
    resume = config.checkpointing.resume
    manifest = _read_manifest(path)
    if resume not in ("auto", "never"):
        return RunFolder(path, _check_step(Path(resume), path, manifest, config))
    if manifest is None:
        return RunFolder(path, None)
    if resume == "never":
        problem = Problem(
            f"checkpointing.resume = never, but {path} holds a run already",
            str(path),
            f"run.name={config.run.name}-2, or checkpointing.resume=auto to go on",
        )
        raise CheckpointError(problem)
    _check_same_recipe(manifest, path, config)
    steps = list_steps(path / "checkpoints")
    return RunFolder(path, step_folder(path / "checkpoints", steps[-1]) if steps else None)


def _check_step(step: Path, path: Path, manifest: Mapping[str, Any] | None, config: Config) -> Path:
    """A step folder that the recipe names: of this run, or of another one with the same recipe for a new run."""
    read_state(step)
    owner = step.resolve().parent.parent
    if manifest is not None and owner != path.resolve():
        problem = Problem(
            f"checkpointing.resume = {step} belongs to another run, and {path} holds one already",
            str(path),
            f"run.name={config.run.name}-2 for a new run that starts from this step",
        )
        raise CheckpointError(problem)
    owner_manifest = _read_manifest(owner)
    if owner_manifest is not None:
        _check_same_recipe(owner_manifest, owner, config)
    return step


def _check_same_recipe(manifest: Mapping[str, Any], path: Path, config: Config) -> None:
    differences = _differences(manifest.get("recipe", {}), encode_absolute(config))
    if differences:
        more = f"; and {len(differences) - SHOWN_DIFFERENCES} more" if len(differences) > SHOWN_DIFFERENCES else ""
        problem = Problem(
            f"{path} holds a run of another recipe: {'; '.join(differences[:SHOWN_DIFFERENCES])}{more}",
            str(path / "recipe.yaml"),
            f"run.name={config.run.name}-2 for a new run, or the values of the run to go on with it",
        )
        raise CheckpointError(problem)


def find_changed_data(run: RunFolder, fingerprints: Mapping[str, Any]) -> list[Problem]:
    """What is other in the training data than in the run that this one goes on from: the order would be another too.

    Args:
        run: that goes on.
        fingerprints: of the data as it is now.
    """
    assert run.resume_from is not None, "a run that does not go on"
    owner = run.resume_from.resolve().parent.parent
    before = (_read_manifest(owner) or {}).get("data", {}).get("train")
    # Through JSON, so that tuples and lists are the same.
    now = json.loads(json.dumps(fingerprints["train"]))
    fix = f"restore the data, or run.name={run.path.name}-2 checkpointing.resume=auto for a new run"
    changes: list[tuple[str, str]] = []
    if before is not None and len(before) != len(now):
        changes.append(("data.train", f"data.train has {len(before)} sources there and {len(now)} here"))
    elif before is not None:
        for old, new in zip(before, now, strict=True):
            changes += [
                (new["named_by"] or "data.train", f"source {new['name']}: {what}") for what in _compare(old, new)
            ]
    return [Problem(f"the data is not what {owner} was trained on: {what}", where, fix) for where, what in changes]


def _compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What tells two sources apart; a file with the same content may lie elsewhere."""
    for name in ("name", "format", "rows", "subsets", "terms", "subflavors"):
        # A run of an earlier version wrote fewer of them.
        if name in old and old[name] != new[name]:
            yield f"{name} is {_short(old.get(name))} there and {_short(new[name])} here"
    if len(old["files"]) != len(new["files"]):
        yield f"it has {len(old['files'])} files there and {len(new['files'])} here"
        return
    for before, now in zip(old["files"], new["files"], strict=True):
        marks = [name for name in FILE_MARKS if name in before or name in now] or ["path"]
        changed = next((name for name in (*marks, "split") if before.get(name) != now.get(name)), None)
        if changed is not None and changed.startswith("sha256"):
            yield f"{now['path']}: its content is another"
        elif changed is not None:
            yield f"{now['path']}: {changed} is {_short(before.get(changed))} there and {_short(now.get(changed))} here"


def completed_steps(run: RunFolder) -> int | None:
    """Steps of a run that was finished, with export and scores; None when it was not."""
    manifest = _read_manifest(run.path)
    return None if manifest is None else manifest.get("completed_steps")


def read_lengths(run: RunFolder) -> dict[str, Length] | None:
    """What sources were measured as when the run began that this one goes on from; None: they were not."""
    if run.resume_from is None:
        return None
    lengths = (_read_manifest(run.resume_from.resolve().parent.parent) or {}).get("lengths")
    return None if lengths is None else {name: Length(*numbers) for name, numbers in lengths.items()}


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a run folder; None where there is no run."""
    manifest = path / "manifest.json"
    if not manifest.exists():
        return None
    fix = "run.name=<another> for a new run; the checkpoints in the folder are untouched"
    return read_json(manifest, "holds a run that is damaged", fix)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`key is old there and new here`, what says most first."""
    # Through JSON, so that tuples and lists are the same.
    flat_old, flat_new = dict(_flatten(old)), dict(_flatten(json.loads(json.dumps(new))))
    found = []
    for key in sorted(flat_old.keys() | flat_new.keys(), key=_weight):
        is_free = any(key == free or key.startswith(f"{free}.") for free in MAY_DIFFER)
        if not is_free and flat_old.get(key) != flat_new.get(key):
            found.append(f"{key} is {_short(flat_old.get(key))} there and {_short(flat_new.get(key))} here")
    return found


def _weight(key: str) -> tuple[int, str]:
    """Sorts the stage and the weights before everything else, and the many fields of a shape last."""
    order = ("scale.", "stage.kind", "model.pretrained", "model.init", "stage.", "data.")
    place = next((index for index, start in enumerate(order) if key.startswith(start)), len(order))
    return (len(order) + 1 if key.startswith("model.config") else place), key


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, list | dict) else scalar_text(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _flatten(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from _flatten(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, values


def mark_complete(run: RunFolder, num_steps: int) -> None:
    """Note in the manifest that a run has its steps, its export and its scores; the last thing a run writes."""
    manifest = _read_manifest(run.path)
    assert manifest is not None, "a run writes its manifest before its first step"
    write_json(run.manifest, manifest | {"completed_steps": num_steps})
