"""What to write in place of a path where nothing is, or something that no reader takes."""

from __future__ import annotations

from pathlib import Path

from vlmforge.data.gsm8k_parquet import SPLITS
from vlmforge.data.locations import FILE_SUFFIXES
from vlmforge.errors import nearest, one_of

# Folders of assets/ that have to be asked for; the other ones are made by `fetch_assets.py` alone.
_MADE_BY = {
    "drawn": "draw_questions.py",
    "chat": "fetch_assets.py --only chat",
    "openmoji": "fetch_assets.py --only openmoji",
    "openmoji-all": "fetch_assets.py --only openmoji_all",
    "tuxpaint": "fetch_assets.py --only tuxpaint",
    "wordnet": "fetch_assets.py --only wordnet",
}
_GSM8K_FILES = tuple(f"{split}.parquet" for split in SPLITS)
# Names of a folder that are listed, where none is like the one that is wanted.
_MOST_NAMES = 8


def advise_path(path: str) -> str:
    """The nearest name in the folder where the file should be, or the nearest folder."""
    folder, name = Path(path).parent, Path(path).name
    if not folder.is_dir() and folder.parts[:1] == ("assets",):
        asset = "/".join(folder.parts[:2])
        script = _MADE_BY.get(asset.removeprefix("assets/"), "fetch_assets.py")
        return f"python scripts/{script}  makes {asset}/ (docs/assets.md), or give the path of your own file"
    if not folder.is_dir() and folder.name == "gsm8k" and name in _GSM8K_FILES:
        rows = Path(name).with_suffix(".jsonl")
        return f"python -m vlmforge.data.gsm8k_parquet {rows} {path}  makes it of GSM8K's own lines (docs/assets.md)"
    if not folder.is_dir():
        return _tell_absent(folder)
    present = sorted(entry.name for entry in folder.iterdir() if entry.suffix in FILE_SUFFIXES or entry.is_dir())
    near = nearest(name, present, limit=1)
    if near:
        return f"did you mean  {folder / near[0]}"
    listed = f"{folder} has {_list_some(present)}" if present else f"{folder} has no data files"
    return f"{listed}; give the path of a file that ends in {one_of(FILE_SUFFIXES)}"


def advise_folder(path: str) -> str:
    """The nearest folder beside one that does not exist."""
    around, name = Path(path).parent, Path(path).name
    if not around.is_dir():
        return _tell_absent(around)
    present = sorted(entry.name for entry in around.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    near = nearest(name, present, limit=1)
    if near:
        return f"did you mean  {around / near[0]}"
    return f"{around} has the folders {_list_some(present)}" if present else f"{around} has no folders"


def advise_foreign(path: str) -> str:
    """What to do with a file that no reader takes."""
    if path.endswith((".tar.gz", ".tgz", ".tar.zst")):
        return f"unpack it to a plain .tar, for example  gunzip {path}"
    return "write it as JSON lines, one object on every line"


def _tell_absent(folder: Path) -> str:
    return f"give a path that exists: folder {folder} does not exist either; relative paths start at {Path.cwd()}"


def _list_some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
