"""Fingerprints of data files for a run's manifest: enough to notice that the data is not the same any more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmforge.config.schema import Config
from vlmforge.config.sources import BLENDS
from vlmforge.data.files import is_url, stamp
from vlmforge.data.leaves import Group
from vlmforge.data.locations import PREPARED_META, Kind, classify_path, expand_paths
from vlmforge.data.mixture import name_leaves
from vlmforge.data.tree import build_blend

_ENDS_BYTES = 1 << 20


def fingerprint_sources(config: Config) -> dict[str, Any]:
    """For each blend and source: its files with size and hash, which rows are used, and how much each source gives."""
    return {blend: list(_fingerprint_group(build_blend(config.data, blend))) for blend in BLENDS}


def _fingerprint_group(group: Group) -> Iterator[dict[str, Any]]:
    """Its sources; what the file of an energon blend says of them is nowhere else."""
    for (leaf, name), terms in zip(name_leaves(group), group.list_terms(), strict=True):
        source = leaf.source
        yield {
            "name": name,
            "format": source.format,
            "rows": list(source.rows) if source.rows else None,
            "subsets": [subset.tell() for subset in leaf.subsets],
            "terms": terms,
            "subflavors": {label: str(value) for label, value in source.subflavors.items()},
            "named_by": leaf.where,
            "files": [_fingerprint_path(path, source.split) for path in expand_paths(source.path)],
        }


def _fingerprint_path(path: str, split: str | None) -> dict[str, Any]:
    """One path; what is not on this machine has its name only."""
    kind = classify_path(path)
    if is_url(path) and kind is Kind.FILE:
        mark = stamp(path)
        return {"path": path, "size_bytes": mark.size, "version": mark.version}
    if kind is Kind.PREPARED and not is_url(path):
        return {"path": path, "split": split, "sha256_of_meta": _hash_meta(Path(path) / PREPARED_META)}
    if kind is Kind.FILE:
        return {"path": path, "size_bytes": Path(path).stat().st_size, "sha256_of_ends": hash_ends(Path(path))}
    if kind is Kind.FOLDER:
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.relative_to(path)} {hash_ends(file)}\n".encode())
        size = sum(file.stat().st_size for file in files)
        return {"path": path, "split": split, "size_bytes": size, "sha256_of_ends": digest.hexdigest()}
    return {"path": path, "split": split}


def _hash_meta(folder: Path) -> str:
    """The sha256 of what energon wrote about its shards, all but the index."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".json", ".uuid")):
        digest.update(f"{file.name} {hash_ends(file)}\n".encode())
    return digest.hexdigest()


def hash_ends(path: Path) -> str:
    """The sha256 of a file's size, its first and its last MiB: quick for any size, blind to the file's date."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        digest.update(file.read(_ENDS_BYTES))
        if size > _ENDS_BYTES:
            file.seek(max(_ENDS_BYTES, size - _ENDS_BYTES))
            digest.update(file.read(_ENDS_BYTES))
    return digest.hexdigest()
