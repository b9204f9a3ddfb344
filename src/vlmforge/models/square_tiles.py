"""What the rules have in common by which a picture becomes square tiles, each as many tokens."""

# Shapes: S tokens of one sample.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlmforge.models.image_types import Grid

if TYPE_CHECKING:
    from vlmforge.data.images import ImageTensors as AnyImageTensors
    from vlmforge.data.sample import RenderedSample

# The most tiles of a picture, from one step of shrinking to the next, as Megatron degrades them.
TILE_STEPS = (12, 8, 6, 4, 2, 1)


def fewer_tiles(max_tiles: int) -> int:
    """The next smaller of `TILE_STEPS`; 0: there is none."""
    return next((count for count in TILE_STEPS if count < max_tiles), 0)


class SquareTiles(ABC):
    """Positions and pixels of tiles; see `ImageRule`."""

    def __init__(
        self, processor: Any, placeholder_id: int, tag_ids: frozenset[int], num_tokens: int, num_frames: int
    ) -> None:
        """Prepare.

        Args:
            processor: makes tiles; it has `image_mean` and `image_std`.
            placeholder_id: of the tokenizer.
            tag_ids: tokens around a picture, whoever writes them.
            num_tokens: of a tile.
            num_frames: of a film that are seen.
        """
        self.processor = processor
        self.placeholder_id = placeholder_id
        self.tag_ids = tag_ids
        self.num_tokens = num_tokens
        self.num_frames = num_frames

    @property
    @abstractmethod
    def max_tiles(self) -> int:
        """Of a picture."""

    @abstractmethod
    def count_tiles(self, grid: Grid) -> int:
        """Tiles of a picture, its thumbnail included."""

    @property
    def frame_shrinks(self) -> int:
        """See `ImageRule`: a frame is one tile."""
        return sum(count < self.max_tiles for count in TILE_STEPS)

    def positions(self, sample: RenderedSample) -> npt.NDArray[np.int64]:
        """See `ImageRule`: `[1, S]`; each embedding of a tile has a place of its own."""
        return np.arange(sample.num_tokens)[None]

    def show_tensors(self, tensors: AnyImageTensors, grids: Sequence[Grid]) -> list[list[npt.NDArray[np.uint8]]]:
        """See `ImageRule`: row by row, the thumbnail last."""
        tiles = tensors.pixel_values.permute(0, 2, 3, 1).split([self.count_tiles(grid) for grid in grids])
        return [[to_bytes(tile, self.processor) for tile in picture] for picture in tiles]


def to_bytes(pixels: Tensor, processor: Any) -> npt.NDArray[np.uint8]:
    """`[height, width, 3]` from normalised pixels."""
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    return ((pixels.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
