"""Writing a whole file so that a reader sees the old content or the new, never half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id, because two runs may write beside each other; the same folder, because a rename is
    # atomic only within one file system.
    part_path = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part_path.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part_path, path)
    finally:
        part_path.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Replace a JSON file in one step; indented, because people read these files."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
