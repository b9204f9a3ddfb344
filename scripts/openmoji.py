"""Pictures of OpenMoji with what each shows, out of the one archive that npm has.

Pictures are drawn from their SVG, which needs `resvg_py`. `fetch_assets.py` writes the files.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from kinds import name_kind

INDEX = "package/data/openmoji.json"
DRAWING = "package/color/svg/{}.svg"
# Brands are names rather than things to see, and so are flags where nothing says that they are flags. Variants of skin
# share a caption.
LEFT_OUT_GROUPS = ("component", "extras-openmoji", "extras-unicode")
FLAGS = "flags"
QUESTION = "What does this picture show?"


class Captioned(Protocol):
    """A picture's file and what is said of it."""

    @property
    def kind(self) -> str:
        """What sort of thing it shows."""
        ...

    @property
    def file_name(self) -> str:
        """Relative to the asset's folder."""
        ...

    @property
    def text(self) -> str:
        """The caption."""
        ...


AnyCaption = TypeVar("AnyCaption", bound=Captioned)


@dataclass(frozen=True)
class Caption:
    """One picture.

    Attributes:
        hexcode: its code points, which its file is called by.
        text: what it shows.
        kind: what sort of thing that is.
    """

    hexcode: str
    text: str
    kind: str = ""

    @property
    def file_name(self) -> str:
        """Of the picture, relative to the asset's folder."""
        return f"images/{self.hexcode}.png"


def choose_captions(index: str, limit: int, with_flags: bool = False) -> list[Caption]:
    """Captions spread evenly over those that are words about a thing, in OpenMoji's order."""
    left_out = LEFT_OUT_GROUPS if with_flags else (*LEFT_OUT_GROUPS, FLAGS)
    usable = [
        Caption(entry["hexcode"], entry["annotation"], name_kind(entry["group"], entry["subgroups"]))
        for entry in json.loads(index)
        if not entry["skintone"] and entry["group"] not in left_out
    ]
    num = min(limit, len(usable))
    return [usable[k * len(usable) // num] for k in range(num)]


def draw_pictures(archive_path: Path, captions: Sequence[Caption], folder: Path, size: int) -> None:
    """Write the picture of each caption as a PNG of `size` pixels squared."""
    import resvg_py

    (folder / "images").mkdir()
    with tarfile.open(archive_path) as archive:
        for caption in captions:
            drawing = archive.extractfile(DRAWING.format(caption.hexcode))
            assert drawing is not None, caption.hexcode
            svg = drawing.read().decode()
            png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
            (folder / caption.file_name).write_bytes(bytes(png))


def read_index(archive_path: Path) -> str:
    """The list of all pictures."""
    with tarfile.open(archive_path) as archive:
        index = archive.extractfile(INDEX)
        assert index is not None, INDEX
        return index.read().decode()


def write_csv(captions: Sequence[Caption]) -> str:
    """A table of pictures and captions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "caption"))
    writer.writerows((caption.file_name, caption.text) for caption in captions)
    return text.getvalue()


def split_captions(captions: Sequence[AnyCaption], num_held_out: int) -> tuple[list[AnyCaption], list[AnyCaption]]:
    """Training part and held-out tail in the order of the caption's hash; no caption is in both.

    That order is as good as shuffled, so that any range of rows is a fair sample.
    """
    ordered = sorted(captions, key=lambda caption: (_hash(caption.text.lower()), caption.file_name))
    border = len(ordered) - num_held_out
    while 0 < border < len(ordered) and ordered[border - 1].text.lower() == ordered[border].text.lower():
        border += 1
    return ordered[:border], ordered[border:]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_messages(
    captions: Sequence[AnyCaption],
    question: str = QUESTION,
    say: Callable[[AnyCaption], str] = lambda caption: caption.text,
) -> str:
    """Conversations of one question and one answer, one JSON object on a line."""
    rows = (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": caption.file_name},
                        {"type": "text", "text": question},
                    ],
                },
                {"role": "assistant", "content": say(caption)},
            ]
        }
        for caption in captions
    )
    return "".join(json.dumps(row) + "\n" for row in rows)
