"""What an image rule gives: the layout of a picture among tokens, and pixels as a tower takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class ImageLayout:
    """What a picture of some size becomes.

    Attributes:
        ids: the tokens that take the place of its placeholder.
        grid: frames, rows and columns of its patches, or of its tiles without the thumbnail.
        lead: text before those tokens that is made tokens of together with what stands before it.
    """

    ids: tuple[int, ...]
    grid: Grid
    lead: str = ""


@dataclass(frozen=True)
class ImageTensors:
    """The pixels of some pictures, as the tower takes them.

    Attributes:
        pixel_values: `[patches, values]` of all pictures end to end, or `[tiles, 3, height, width]`.
        image_grid_thw: `[pictures, 3]` int64: frames, rows and columns of patches; None where all tiles are alike.
    """

    pixel_values: Tensor
    image_grid_thw: Tensor | None = None

    def to(self, device: torch.device | str) -> ImageTensors:
        """The same on `device`."""
        grid = self.image_grid_thw
        return replace(
            self,
            pixel_values=self.pixel_values.to(device, non_blocking=True),
            image_grid_thw=None if grid is None else grid.to(device, non_blocking=True),
        )

    def join(self, more: Any) -> ImageTensors:
        """These pictures and more, end to end."""
        grids = [part.image_grid_thw for part in (self, more) if part.image_grid_thw is not None]
        return ImageTensors(torch.cat([self.pixel_values, more.pixel_values]), torch.cat(grids) if grids else None)
