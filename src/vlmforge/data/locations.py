"""What kind of thing a source's path is, told without opening it and without a network."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from vlmforge.data.builtin import PREFIX

FILE_SUFFIXES = (".jsonl", ".parquet")
# Files that somebody may well point at, and that no reader takes; no hub id ends so.
_FOREIGN_SUFFIXES = (".json", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst", ".zip", ".tar", ".yaml", ".yml", ".pkl")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Kind(Enum):
    """Kinds of paths."""

    BUILTIN = "built-in samples"
    FILE = "file"
    FOLDER = "folder of the datasets library"
    HUB = "hub id"
    FOREIGN = "file of a kind that cannot be read"
    ABSENT = "nothing"


def classify_path(path: str) -> Kind:
    """The kind of a path; a file that should exist but does not is `ABSENT`."""
    if path.startswith(PREFIX):
        return Kind.BUILTIN
    if path.endswith(FILE_SUFFIXES):
        return Kind.FILE if Path(path).is_file() else Kind.ABSENT
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
