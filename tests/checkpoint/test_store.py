"""Tensors on disk: shards put together by name, and what is missing is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmforge.checkpoint import store
from vlmforge.checkpoint.steps import list_steps, step_folder
from vlmforge.checkpoint.store import SafetensorsReader, read_state, save_step
from vlmforge.config.derived import Axes
from vlmforge.errors import CheckpointError
from vlmforge.parallel.mesh import open_world


@pytest.fixture
def _world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_world(Axes(), "cpu", 60.0):
        yield


@pytest.mark.usefixtures("_world")
def test_what_was_saved_is_read_and_nothing_is_pickled(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4).bfloat16()}
    save_step(tmp_path, 7, tensors, {"step": 7})
    assert list_steps(tmp_path) == [7]
    folder = step_folder(tmp_path, 7)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert read_state(folder) == {"step": 7}
    read = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
    SafetensorsReader().read(folder, read)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.usefixtures("_world")
def test_a_large_state_is_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FILE_BYTES", 100)
    # Of 80, 40, 60 and 400 bytes.
    tensors = {name: torch.randn(size) for name, size in (("a", 20), ("b", 10), ("c", 15), ("d", 100))}
    save_step(tmp_path, 1, tensors, {})
    files = sorted(step_folder(tmp_path, 1).glob("*.safetensors"))
    assert [sorted(load_file(file)) for file in files] == [["a"], ["b", "c"], ["d"]]
    read = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
    SafetensorsReader().read(step_folder(tmp_path, 1), read)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_a_lost_shard_is_not_read_as_garbage(tmp_path: Path) -> None:
    info = '{"w": {"saved_offsets": [4, 0]}}'
    save_file({"w": torch.ones(4, 2)}, tmp_path / "shard-2.safetensors", metadata={"DCP_SHARDING_INFO": info})
    with pytest.raises(CheckpointError, match="tensors are incomplete, for example w"):
        SafetensorsReader().shapes(tmp_path)


def test_a_folder_without_state_is_no_checkpoint(tmp_path: Path) -> None:
    step_folder(tmp_path, 3).mkdir()
    assert list_steps(tmp_path) == []
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        read_state(step_folder(tmp_path, 3))
