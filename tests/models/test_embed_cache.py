"""Features of a frozen tower on disk: read when all is as it was, made anew when anything is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.tiny import stitched_fields

from vlmforge.config.derived import Axes
from vlmforge.config.schema import ModelConfig
from vlmforge.models.build import auto_class
from vlmforge.models.embed_cache import EmbedCache, hash_tower
from vlmforge.models.shape import build_hf_config
from vlmforge.parallel.mesh import World, open_world


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(Axes(), "cpu", 60.0) as world:
        yield world


@pytest.fixture(scope="module")
def model() -> Any:
    shape = build_hf_config(ModelConfig(family="stitched", config=stitched_fields("clip", "llama")))
    torch.manual_seed(0)
    return auto_class(shape).from_config(shape, attn_implementation="sdpa").eval()


class Watched:
    """The cache of a model whose tower's runs are counted."""

    def __init__(self, model: Any, folder: Path, world: World, max_bytes: int = 2**20) -> None:
        self.lines: list[str] = []
        self.runs = 0
        self.model = model
        self.cache = EmbedCache(folder, max_bytes, world, self.lines.append)

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        tower = self.model.model.vision_tower
        handle = tower.register_forward_hook(self.count)
        self.model.model.embed_cache = self.cache
        with torch.no_grad():
            features = self.model.get_image_features(pixels).pooler_output
        self.model.model.embed_cache = None
        handle.remove()
        return features

    def count(self, *_: Any) -> None:
        self.runs += 1


def test_a_tile_that_was_seen_is_read_bit_for_bit(model: Any, world: World, tmp_path: Path) -> None:
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = model.get_image_features(pixels).pooler_output
    first = Watched(model, tmp_path / "key", world)
    assert torch.equal(first.see(pixels), expected)
    # By another process, in another order.
    later = Watched(model, tmp_path / "key", world)
    assert torch.equal(later.see(pixels[[2, 0]]), expected[[2, 0]])
    # A process runs the tower once in any case, on one tile.
    assert (first.runs, later.runs) == (1, 1)
    assert torch.equal(later.see(pixels[[1, 0]]), expected[[1, 0]])
    assert later.runs == 1
    assert "3 tiles so far" in later.lines[0]
    later.see(pixels + 1e-6)
    assert later.runs == 2
    assert len(list(tmp_path.rglob("*"))) == 1 + 6 + len({path.parent for path in tmp_path.rglob("*.safetensors")})


def test_a_broken_file_is_made_anew(model: Any, world: World, tmp_path: Path) -> None:
    pixels = torch.randn(1, 3, 32, 32)
    watched = Watched(model, tmp_path / "key", world)
    expected = watched.see(pixels)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(watched.see(pixels), expected)
    assert torch.equal(watched.see(pixels), expected)
    assert watched.runs == 2


def test_no_more_is_kept_than_was_allowed(model: Any, world: World, tmp_path: Path) -> None:
    watched = Watched(model, tmp_path / "key", world, max_bytes=6000)
    for _ in range(2):
        watched.see(torch.randn(2, 3, 32, 32))
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.safetensors")]
    assert 0 < sum(sizes) <= 6000 + 200 * len(sizes)
    assert len(sizes) < 4
    (_, full) = watched.lines
    assert "has no more room" in full
    # Another tower's features count too.
    other = Watched(model, tmp_path / "other", world, max_bytes=sum(sizes))
    other.see(torch.randn(1, 3, 32, 32))
    assert not list((tmp_path / "other").rglob("*.safetensors"))


def test_of_ranks_with_the_same_tiles_one_writes_with_all_the_room(model: Any, world: World, tmp_path: Path) -> None:
    def ranks(axes: Axes, world_size: int, per_machine: int) -> frozenset[int]:
        return replace(world, axes=axes, world_size=world_size, ranks_per_machine=per_machine).first_copies

    assert ranks(Axes(tp=2, cp=2, dp_shard=2), 8, 8) == {0, 4}
    assert ranks(Axes(dp_shard=4), 4, 2) == {0, 1, 2, 3}
    # Along cp over two machines, of which each has a disk of its own.
    assert ranks(Axes(tp=2, cp=4), 8, 4) == {0, 4}
    pixels = torch.randn(3, 3, 32, 32)
    size = 3 * 17 * 32 * 4
    for rank in (1, 0):
        twin = replace(world, axes=Axes(tp=2), world_size=2, ranks_per_machine=2, rank=rank)
        Watched(model, tmp_path / "key", twin, max_bytes=size).see(pixels)
        assert len(list(tmp_path.rglob("*.safetensors"))) == (3 if rank == 0 else 0)


def test_another_tower_or_precision_has_another_name(model: Any, world: World) -> None:
    tower = model.model.vision_tower
    key = hash_tower(tower, "float32", world)
    assert hash_tower(tower, "float32", world) == key
    assert hash_tower(tower, "bfloat16", world) != key
    weight = next(iter(tower.parameters()))
    with torch.no_grad():
        weight.view(-1)[0] += 1e-3
    assert hash_tower(tower, "float32", world) != key
