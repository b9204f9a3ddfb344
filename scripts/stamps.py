"""Tux Paint's stamps, each with its sentence, out of Debian's package `tuxpaint-stamps-default`.

A stamp is a PNG with a text file of its name beside it, whose first line is the sentence in English. Those that are SVG
are left out: some have no size. `fetch_assets.py` writes the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinds import name_kind
from PIL import Image


@dataclass(frozen=True)
class Stamp:
    """One picture.

    Attributes:
        name: its path without suffix, its parts joined by `-`.
        source: its file in the package.
        text: the sentence.
        folders: below that of all stamps.
    """

    name: str
    source: Path
    text: str
    folders: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What sort of thing it shows, by the folders that it is in."""
        return name_kind(*self.folders)

    @property
    def file_name(self) -> str:
        """Of the picture, relative to the asset's folder."""
        return f"images/{self.name}.png"


def read_stamps(folder: Path) -> list[Stamp]:
    """All stamps below a folder that have a sentence, in the order of their names."""
    stamps = []
    for note in sorted(folder.rglob("*.txt")):
        source = note.with_suffix(".png")
        lines = note.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        # A first line with a mark is a translation's already.
        if lines and source.is_file() and "=" not in lines[0]:
            parts = note.relative_to(folder).with_suffix("").parts
            stamps.append(Stamp("-".join(parts), source, lines[0].strip(), parts[:-1]))
    return stamps


def hash_stamps(stamps: Sequence[Stamp]) -> str:
    """The sha256 over names, sentences and pictures, as they lie in the package."""
    digest = hashlib.sha256()
    for stamp in stamps:
        digest.update(f"{stamp.name}\n{stamp.text}\n{hashlib.sha256(stamp.source.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def draw_stamps(stamps: Sequence[Stamp], folder: Path, size: int) -> None:
    """Write each stamp as a PNG whose longer side has `size` pixels at most."""
    (folder / "images").mkdir()
    for stamp in stamps:
        picture = Image.open(stamp.source).convert("RGBA")
        picture.thumbnail((size, size))
        picture.save(folder / stamp.file_name)
