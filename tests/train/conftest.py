"""A folder with a short recipe in it, to train in."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.runs import write_recipe


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "VLMFORGE_RENDEZVOUS"):
        monkeypatch.delenv(name, raising=False)
    write_recipe(tmp_path)
    return tmp_path
