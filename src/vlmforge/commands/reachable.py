"""Which files of a recipe a container will not see: those of this machine that nothing mounts there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmforge.config.encode import PATH_KEYS, encode_absolute
from vlmforge.config.schema import Config
from vlmforge.data.builtin import PREFIX


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
