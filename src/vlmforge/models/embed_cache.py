"""What a frozen vision tower gives for a tile, kept on disk from one epoch to the next.

A feature is kept under the tower's content (weights, config, precision, versions) and the content of the tile's pixels
after tiling and normalisation, so a changed tower or another tiling never reads what does not belong to it. A tower may
be spread over ranks, which must then run it together: a micro-batch is read from disk when all ranks have all of their
tiles, and seen by the tower, whole, when any rank lacks one.
"""

# Shapes: N tiles, P tokens of a tile before pixel shuffle, C the tower's width.

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmforge.config.schema import Config
from vlmforge.errors import ConfigError, Problem
from vlmforge.parallel.mesh import World, broadcast_object
from vlmforge.parallel.reduce import any_rank
from vlmforge.parallel.shard import full_tensor

DEFAULT_FOLDER = "~/.cache/vlmforge/image_embeds"
GIB = 2**30
# Code that a feature's last bits depend on.
LIBRARIES = ("torch", "transformers", "vlmforge")


class EmbedCache:
    """Features of tiles in a folder that all ranks of a machine share."""

    def __init__(self, folder: Path, max_bytes: int, world: World, tell: Callable[[str], None]) -> None:
        """Take over what is there.

        Args:
            folder: of one tower; its parent holds other towers' features too.
            max_bytes: that the parent may hold; what is beyond is not kept.
            world: its ranks look together; of those with the same tiles one writes on each machine, and what room is
                left is shared among those that write.
            tell: says a line to the user.
        """
        self._folder = folder
        self._world = world
        self._tell = tell
        self._is_full = self._has_run = False
        sizes = [_size(path) for path in folder.parent.glob("*/*/*.safetensors")]
        own = len(list(folder.glob("*/*.safetensors")))
        self._writes = world.rank in world.first_copies
        self._room = max(0, max_bytes - sum(sizes)) // len(world.first_copies)
        tell(
            f"features of the frozen vision tower are kept in {folder}: {own} tiles so far; with other towers' "
            f"{sum(sizes) / GIB:.2f} of at most {max_bytes / GIB:g} GiB"
        )

    def see(self, tower: nn.Module, pixel_values: Tensor) -> Tensor:
        """What the tower gives, run or read; a collective.

        Args:
            tower: frozen, in evaluation mode.
            pixel_values: `[N, 3, height, width]`, normalised.

        Returns:
            `[N, P, C]` on the device of the pixels.
        """
        names = [_hash_tile(tile) for tile in pixel_values.cpu()]
        kept = self._read(names)
        is_lacking, has_run = any_rank(kept is None, self._world.device), self._has_run
        self._has_run = True
        if is_lacking:
            features: Tensor = tower(pixel_values)
            if self._writes:
                for name, feature in zip(names, features.detach().cpu(), strict=True):
                    self._write(name, feature)
            return features
        assert kept is not None, "no rank lacks one"
        if not has_run:
            # FSDP's backward pass asks every layer for what its first forward pass makes.
            tower(pixel_values[:1])
        return torch.stack(kept).to(pixel_values.device)

    def _read(self, names: Sequence[str]) -> list[Tensor] | None:
        """The features of tiles; None where one is missing or cannot be read."""
        paths = [self._path(name) for name in names]
        if not all(path.is_file() for path in paths):
            return None
        kept: list[Tensor] = []
        for path in paths:
            try:
                kept.append(load_file(path)["features"])
            except OSError:
                # Gone meanwhile, or out of reach for now.
                return None
            except (SafetensorError, KeyError):
                # Broken by the disk: it is made anew.
                path.unlink(missing_ok=True)
                return None
        return kept

    def _write(self, name: str, feature: Tensor) -> None:
        """Keep a feature, if there is room and nobody has; whole or not at all, whoever else writes it."""
        path, num_bytes = self._path(name), feature.numel() * feature.element_size()
        if path.exists():
            return
        if num_bytes > self._room:
            self._say_full()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not the process's number, which is another process's too where machines share the folder.
        beside = path.with_suffix(f".{uuid4().hex}")
        save_file({"features": feature.contiguous().clone()}, beside)
        beside.replace(path)
        self._room -= num_bytes

    def _say_full(self) -> None:
        if not self._is_full:
            self._tell(
                f"{self._folder.parent} has no more room; the tower runs for tiles that are not in it. More room: "
                "model.image_cache_gib; features of other towers can be deleted"
            )
        self._is_full = True

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / f"{name}.safetensors"


def attach_embed_cache(
    model: PreTrainedModel, config: Config, world: World, tell: Callable[[str], None]
) -> EmbedCache | None:
    """Give a stitched model with its weights its cache, if the recipe asks; a collective.

    Args:
        model: sharded, with its weights.
        config: the recipe.
        world: this rank's place.
        tell: says a line to the user.
    """
    if not config.model.cache_image_embeds:
        return None
    stitched: Any = model.get_submodule("model")
    key = hash_tower(stitched.vision_tower, config.parallelism.param_dtype, world)
    folder = Path(config.model.image_cache_dir or DEFAULT_FOLDER).expanduser()
    stitched.embed_cache = EmbedCache(folder / key, int(config.model.image_cache_gib * GIB), world, tell)
    return stitched.embed_cache


def hash_tower(tower: PreTrainedModel, param_dtype: str, world: World) -> str:
    """A name made of all that a feature depends on besides its tile; a collective, equal on every rank.

    Args:
        tower: with its weights, sharded or not.
        param_dtype: type in which it computes.
        world: its main rank reads every weight in full, one at a time.
    """
    facts = {
        "config": tower.config.to_dict(),
        "attention": tower.config._attn_implementation,
        "param_dtype": param_dtype,
        "device": world.device.type,
        "versions": {name: version(name) for name in LIBRARIES},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in chain(tower.named_parameters(), tower.named_buffers()):
        full = full_tensor(tensor.detach())
        if world.is_main:
            digest.update(f"{name} {full.dtype} {tuple(full.shape)}".encode())
            digest.update(_bytes(full))
    return broadcast_object(digest.hexdigest()[:32])


def check_embed_cache(towers: Sequence[nn.Module], config: Config) -> None:
    """Refuse a cache of a tower that an adapter changes.

    Args:
        towers: frozen ones of the model.
        config: the recipe.

    Raises:
        ConfigError: there is none, so features would be stale after a step.
    """
    if config.model.cache_image_embeds and not towers:
        problem = Problem(
            "model.cache_image_embeds = true needs a frozen vision tower, and adapters in it are trained",
            "stage.adapter.target_modules",
            "name modules of the language model in stage.adapter.target_modules, or model.cache_image_embeds=false",
        )
        raise ConfigError(problem)


def _hash_tile(tile: Tensor) -> str:
    digest = hashlib.sha256(f"{tile.dtype} {tuple(tile.shape)}".encode())
    digest.update(_bytes(tile))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """The values of a tensor as a buffer, whatever its type."""
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _size(path: Path) -> int:
    """Of a file that another process may take away; 0 then."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
