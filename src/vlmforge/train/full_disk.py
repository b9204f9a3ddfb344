"""A disk that is full, told as where it is and from where the run can go on."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vlmforge.checkpoint.steps import list_steps
from vlmforge.errors import FullDisk, Problem
from vlmforge.observe.memory import GIB_BYTES

# No room on the disk, none of the user's share of it, and a file above the limit for files.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How safetensors, which is no Python, names an error of the system.
BY_NUMBER = re.compile(r"\(os error (\d+)\)")


@contextmanager
def tell_full_disk(checkpoints: Path) -> Iterator[None]:
    """Turn a write that finds no room into an error with a remedy.

    Args:
        checkpoints: of the run.

    Raises:
        FullDisk: there was none.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _number_of(error)
        if number not in FULL:
            raise
        path = Path(getattr(error, "filename", None) or checkpoints.parent)
        steps = list_steps(checkpoints)
        raise FullDisk(
            Problem(
                f"{path} cannot be written: {os.strerror(number)}; "
                f"{shutil.disk_usage(_existing(path)).free / GIB_BYTES:.2f} GiB are free on its disk",
                f"run folder {checkpoints.parent}",
                "make room on that disk, and give the same command again: it goes on from "
                + (f"step {steps[-1]}, whose checkpoint is whole" if steps else "the start"),
            )
        ) from error


def _number_of(error: OSError | SafetensorError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = BY_NUMBER.search(str(error))
    return int(found[1]) if found else None


def _existing(path: Path) -> Path:
    """The folder nearest to it that is there."""
    return path if path.is_dir() else _existing(path.absolute().parent)
