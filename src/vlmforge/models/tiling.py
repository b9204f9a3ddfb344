"""How stitched models see a picture: which grid of tiles, which tags, which pixels.

The rules are those of Megatron's multimodal models: the whole picture is scaled to a grid of square tiles, its shape
distorted to that of the grid, and where there are several tiles a small copy of the whole follows them.
"""

# Shapes: N tiles, S the side of one.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from vlmforge.models.stitched_config import StitchedConfig

if TYPE_CHECKING:
    from PIL.Image import Image

# Of two grids whose shape fits a picture exactly alike, the larger is for pictures that fill half of it.
MIN_FILLED = 0.5
# A grid with more pixels than the picture counts for more only up to this share of the picture.
MAX_COVERED = 0.6


@lru_cache(maxsize=64)
def list_grids(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) of at most `max_tiles` tiles, by their number and then by columns."""
    sides = range(1, max_tiles + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if columns * rows <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid)))


def choose_closest(width: int, height: int, max_tiles: int, tile_size: int) -> tuple[int, int]:
    """The grid whose ratio of width to height differs least from the picture's."""
    best, least = (1, 1), float("inf")
    for columns, rows in list_grids(max_tiles):
        distance = abs(width / height - columns / rows)
        is_filled = width * height > MIN_FILLED * tile_size**2 * columns * rows
        if distance < least or (distance == least and is_filled):
            best, least = (columns, rows), distance
    return best


def choose_by_area(width: int, height: int, max_tiles: int, tile_size: int) -> tuple[int, int]:
    """The grid that fits the picture best in area and in ratio together."""
    best, most = (1, 1), 0.0
    ratio = width / height
    for columns, rows in list_grids(max_tiles):
        covered = min(columns * rows * tile_size**2 / (width * height), MAX_COVERED)
        fit = covered * min(columns / rows / ratio, ratio / (columns / rows))
        if fit > most:
            best, most = (columns, rows), fit
    return best


SELECTORS: Mapping[str, Callable[[int, int, int, int], tuple[int, int]]] = {
    "closest": lru_cache(maxsize=4096)(choose_closest),
    "area_weighted": lru_cache(maxsize=4096)(choose_by_area),
}

# From here on numbers in tags have two digits, and the thumbnail's tag a zero.
TWO_DIGITS = 10
_THUMBNAILS = {
    "default": ("<tile_global_thumbnail>", "<tile_global_thumbnail0>"),
    "yi": ("<tile_global>", "<tile_global0>"),
    "llama3p1": ("<tile_global_thumbnail>", "<tile_global_thumbnail>"),
}


def name_tiles(kind: str, max_tiles: int) -> tuple[tuple[str, ...], str]:
    """The tags of numbered tiles, and that of the thumbnail or of a tile that is alone.

    Args:
        kind: `model.image.tile_tags`, not none.
        max_tiles: of a picture; it decides how many digits a number has.
    """
    is_wide = max_tiles >= TWO_DIGITS
    numbers = [f"{number:02d}" if is_wide else str(number) for number in range(1, max_tiles + 1)]
    return tuple(f"<tile_{number}>" for number in numbers), _THUMBNAILS[kind][is_wide]


class StitchedImageProcessor(BaseImageProcessor):
    """Makes tiles of pictures; what it is told is what `preprocessor_config.json` says."""

    model_input_names = ["pixel_values"]  # noqa: RUF012  # transformers' own declaration

    def __init__(
        self,
        tile_size: int = 448,
        max_tiles: int = 12,
        tile_selector: str = "closest",
        thumbnail: bool = True,
        tile_tags: str = "none",
        tokenization: str = "megatron",
        image_tag: str = "none",
        special_tokens: Sequence[str] = ("<image>",),
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        tile_tokens: int = 256,
        **kwargs: Any,
    ) -> None:
        """See `ImageConfig`; `tile_size` in pixels and `tile_tokens`, those of a tile, are the model's."""
        super().__init__(**kwargs)
        self.tile_size = tile_size
        self.max_tiles = max_tiles
        self.tile_selector = tile_selector
        self.thumbnail = thumbnail
        self.tile_tags = tile_tags
        self.tokenization = tokenization
        self.image_tag = image_tag
        self.special_tokens = list(special_tokens)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.tile_tokens = tile_tokens

    def choose_grid(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of tiles of a picture of some size."""
        return SELECTORS[self.tile_selector](width, height, self.max_tiles, self.tile_size)

    def count_tiles(self, columns: int, rows: int) -> int:
        """Tiles of a grid with the thumbnail, which a single tile does not have."""
        count = columns * rows
        return count + 1 if self.thumbnail and count > 1 else count

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: Any, return_tensors: str | None = None
    ) -> BatchFeature:
        """`pixel_values` `[N, 3, S, S]` of all pictures end to end, and `num_tiles` of each.

        Args:
            images: an RGB picture of PIL, or several.
            return_tensors: None or `pt`, which is the same here.

        Raises:
            ValueError: tensors of another library are asked for.
        """
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors = {return_tensors}: tiles are torch's tensors, pt")
        pictures = images if isinstance(images, list | tuple) else [images]
        tiles = [self._cut(picture) for picture in pictures]
        pixels = torch.stack([self._normalise(tile) for picture in tiles for tile in picture])
        return BatchFeature({"pixel_values": pixels, "num_tiles": [len(picture) for picture in tiles]})

    def _cut(self, picture: Image) -> list[Image]:
        """The tiles of one picture row by row, the thumbnail last."""
        columns, rows = self.choose_grid(*picture.size)
        size = self.tile_size
        # PIL scales bicubically unless it is told otherwise.
        whole = picture.resize((columns * size, rows * size))
        corners = [(column * size, row * size) for row in range(rows) for column in range(columns)]
        tiles = [whole.crop((left, top, left + size, top + size)) for left, top in corners]
        if self.count_tiles(columns, rows) > len(tiles):
            tiles.append(picture.resize((size, size)))
        return tiles

    def _normalise(self, tile: Image) -> Tensor:
        """`[3, S, S]`."""
        pixels = torch.from_numpy(np.array(tile)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(self.image_mean)[:, None, None]) / torch.tensor(self.image_std)[:, None, None]


AutoImageProcessor.register(StitchedConfig, slow_image_processor_class=StitchedImageProcessor, exist_ok=True)
