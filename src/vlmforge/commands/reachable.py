"""What of a recipe the ranks of a job will not see: files that are not mounted, or not theirs; and what they fetch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmforge.config.encode import PATH_KEYS, encode_absolute
from vlmforge.config.pretrained import is_folder
from vlmforge.config.schema import Config
from vlmforge.data.builtin import PREFIX

# Folders that machines seldom share.
OWN_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")
# Where Hugging Face's libraries keep what they fetch, the first that is set.
CACHES = ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


def tell_unreachable(config: Config, mounted: Iterable[str], where: str) -> Iterator[str]:
    """A line for every path that is on no mounted folder.

    Args:
        config: its paths are taken as the job's recipe has them.
        mounted: absolute folders in the container.
        where: what the container is.
    """
    places = [Path(folder) for folder in mounted]
    for key, path in _paths(encode_absolute(config)):
        is_mounted = any(Path(path).is_relative_to(place) for place in places)
        if key == "run.output_dir" and not is_mounted:
            yield f"{path} ({key}) is on no volume of launch.volumes, so what {where} write there is lost with them"
        elif not Path(path).is_absolute():
            yield f"{path} ({key}) is not on this machine; {where} look for it in the image's working directory"
        elif not is_mounted:
            yield f"{path} ({key}) is on no volume of launch.volumes: {where} have it only if the image does"


def tell_own(paths: Mapping[str, str], where: str) -> Iterator[str]:
    """A line for every path below a folder that each machine has for itself.

    Args:
        paths: absolute, to what they are.
        where: who needs them.
    """
    folders = [Path(folder) for folder in (*OWN_FOLDERS, tempfile.gettempdir())]
    for path, meaning in paths.items():
        own = next((folder for folder in folders if Path(path).is_relative_to(folder)), None)
        if own is not None:
            yield f"{path} ({meaning}): most machines have {own} for themselves, and {where} have to see this one's"


def recipe_paths(config: Config) -> dict[str, str]:
    """What a recipe reads and writes: absolute path to its key."""
    paths = {path: key for key, path in _paths(encode_absolute(config))}
    return {path: key for path, key in paths.items() if Path(path).is_absolute()}


def tell_fetched(config: Config, mounted: Sequence[str]) -> Iterator[str]:
    """A line where each pod would fetch a model into a container of its own, which is gone with it."""
    name, environment = config.model.pretrained, config.launch.environment
    if name is None or is_folder(name) or Path(name).is_absolute() or config.model.init == "random":
        return
    cache = next((environment[variable] for variable in CACHES if variable in environment), None)
    is_kept = cache is not None and any(Path(cache).is_relative_to(place) for place in mounted)
    # A volume in the place where the libraries look by themselves.
    if is_kept or (cache is None and any(".cache" in Path(place).parts for place in mounted)):
        return
    place = mounted[0] if mounted else "/data"
    advice = f"'launch.environment={{HF_HOME: {place}/huggingface}}'" + ("" if mounted else " with a volume at /data")
    yield (
        f"{name} (model.pretrained) comes from the hub: unless the image has it, every pod fetches all of it into its "
        f"own container, at every start; {advice} keeps one copy"
    )


def _paths(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Key and path of what the recipe reads and writes; names of the hub are left out."""
    yield "run.output_dir", values["run"]["output_dir"]
    kept = values["model"]["image_cache_dir"]
    if kept:
        yield "model.image_cache_dir", kept
    for dotted in PATH_KEYS:
        holder: Any = values
        for name in dotted.split("."):
            holder = (holder or {}).get(name)
        if isinstance(holder, str) and Path(holder).is_absolute():
            yield dotted, holder
    for blend in ("train", "validation"):
        yield from _sources(values["data"][blend], f"data.{blend}")


def _sources(sources: Sequence[dict[str, Any]], key: str) -> Iterator[tuple[str, str]]:
    for index, source in enumerate(sources):
        inner = f"{key}.{index}"
        paths = [(f"{inner}.path", path) for path in source["path"]]
        paths += [(f"{inner}.media_root", source["media_root"])] if source.get("media_root") else []
        for name, path in paths:
            # A name of the hub has no suffix, and a file that is not here is meant for the other machine.
            is_file = Path(path).is_absolute() or Path(path).suffix != "" or path.startswith(".")
            if is_file and not path.startswith(PREFIX) and "://" not in path:
                yield name, path
        yield from _sources(source["sources"], f"{inner}.sources")
