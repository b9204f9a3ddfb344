"""What kind of thing a source's path is, told without reading it.

Nothing but an address that the recipe itself gives is looked up on a network, and no hub id ever is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from vlmforge.data.builtin import PREFIX
from vlmforge.data.files import expand_pattern, has_pattern, is_file, is_url

FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".tar", ".csv", ".tsv")
# The folder in which `energon prepare` leaves what it found out about the shards beside it.
PREPARED_META = ".nv-meta"
_PREPARED_FILES = ("dataset.yaml", ".info.json", ".info.yaml")
# Files that somebody may well point at, and that no reader takes; no hub id ends so.
_FOREIGN_SUFFIXES = (".txt", ".arrow", ".gz", ".tgz", ".zst", ".zip", ".yaml", ".yml", ".pkl", ".xlsx")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Kind(Enum):
    """Kinds of paths."""

    BUILTIN = "built-in samples"
    FILE = "file"
    PREPARED = "folder that energon has prepared"
    FOLDER = "folder of the datasets library"
    HUB = "hub id"
    FOREIGN = "file of a kind that cannot be read"
    ABSENT = "nothing"


def expand_paths(paths: Sequence[str]) -> list[str]:
    """The paths of a source with every pattern replaced by what it stands for, in order.

    A name in which a pattern's signs are part of a file's own name stands for that file.
    """
    return [
        found
        for path in paths
        for found in ([path] if not has_pattern(path) or Path(path).exists() else expand_pattern(path))
    ]


def classify_path(path: str) -> Kind:
    """The kind of a path; a file that should exist but does not is `ABSENT`."""
    if path.startswith(PREFIX):
        return Kind.BUILTIN
    if path.endswith(FILE_SUFFIXES):
        return Kind.FILE if is_file(path) else Kind.ABSENT
    if any(is_file(f"{path}/{PREPARED_META}/{name}") for name in _PREPARED_FILES):
        return Kind.PREPARED
    if is_url(path):
        return Kind.ABSENT
    if Path(path).is_dir():
        return Kind.FOLDER
    if Path(path).is_file():
        return Kind.FOREIGN
    return Kind.HUB if _is_hub_id(path) else Kind.ABSENT


def _is_hub_id(path: str) -> bool:
    """`a/b`, unless `a` is a folder here or `b` is called as files are."""
    if not _HUB_ID.fullmatch(path) or path.endswith(_FOREIGN_SUFFIXES):
        return False
    return not Path(path.split("/")[0]).is_dir()
