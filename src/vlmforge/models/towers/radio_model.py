"""RADIO as a tower: positions cropped at random in training, no norm of pixels and no layer scale of its own.

transformers' class divides pixels by a mean and a deviation itself; here the image processor does, once for every
tower. Its layer scale is there for a sibling of RADIO: the published towers have none, and its ones would be trained.
"""

# Shapes: N tiles, R rows and C columns of patches.

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import RadioModel
from transformers.models.radio.modeling_radio import RadioPatchEmbeddings

from vlmforge.models.stitched_config import RadioTowerConfig

# Of a crop: the shortest side as a share of the table's, and the most that it is wider than high.
MIN_SCALE = math.sqrt(0.1)
MAX_LOG_ASPECT = math.log(4 / 3)


class CroppedEmbeddings(RadioPatchEmbeddings):
    """Patches with their place in the table of positions; in training the place is a random window of it (CPE)."""

    def __init__(self, config: RadioTowerConfig) -> None:
        """`crops_positions` of the config switches the windows off."""
        super().__init__(config)
        self.crops_positions = config.crops_positions

    def _embed_dense_patches(self, pixel_values: Tensor, projection: nn.Linear) -> Tensor:
        patches = projection(self._image_to_patches(pixel_values))
        rows, columns = (side // self.patch_size for side in pixel_values.shape[-2:])
        if self.training and self.crops_positions:
            positions = crop_positions(self._table(), len(patches), (rows, columns)).to(patches.dtype)
        else:
            positions = self._interpolate_position_embedding((rows, columns), patches.dtype)
        prefix = self.cls_register_token.expand(len(patches), -1, -1)
        return torch.cat([prefix, patches + positions], dim=1)

    def _table(self) -> Tensor:
        """`[1, width, rows, columns]`."""
        return self.position_embedding.view(1, self.max_rows, self.max_cols, -1).permute(0, 3, 1, 2)


def crop_positions(table: Tensor, num_tiles: int, grid: tuple[int, int]) -> Tensor:
    """A random window of the table for each tile, sampled at its patches.

    The window's scale is uniform from the square root of a tenth to 1, the logarithm of its aspect uniform to 4:3
    either way, and it lies anywhere inside the table.

    Args:
        table: `[1, width, rows, columns]`.
        num_tiles: N.
        grid: R and C.

    Returns:
        `[N, R C, width]`, float32.
    """
    rows, columns = grid
    draw = {"device": table.device, "dtype": torch.float32}
    scale = MIN_SCALE + (1 - MIN_SCALE) * torch.rand(num_tiles, 1, **draw)
    aspect = torch.exp(MAX_LOG_ASPECT * (2 * torch.rand(num_tiles, 1, **draw) - 1))
    size = torch.cat([scale * aspect, scale / aspect], dim=1).clamp(max=1.0)
    start = torch.rand(num_tiles, 2, **draw) * (1 - size)
    across, down = torch.linspace(0, 1, columns, **draw), torch.linspace(0, 1, rows, **draw)
    inside = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)
    places = (start[:, None, None] + inside * size[:, None, None]) * 2 - 1
    tables = table.float().expand(num_tiles, -1, -1, -1)
    sampled = F.grid_sample(tables, places, mode="bilinear", padding_mode="zeros", align_corners=True)
    return sampled.flatten(2).transpose(1, 2)


class RadioTower(RadioModel):
    """`[tiles, class and register tokens + patches, width]` from pixels that are normalised already."""

    config_class = RadioTowerConfig

    def __init__(self, config: RadioTowerConfig) -> None:
        """See the module."""
        super().__init__(config)
        self.input_conditioner = nn.Identity()
        self.embeddings = CroppedEmbeddings(config)
        for layer in self.encoder.layer:
            layer.layer_scale1 = nn.Identity()
            layer.layer_scale2 = nn.Identity()
        # Of the summary, which nothing here uses; published files get theirs when they are written.
        indices = self.summary_idxs
        del self.summary_idxs
        self.register_buffer("summary_idxs", indices, persistent=False)
        # Draws the new embeddings.
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The class and register tokens, then the patches row by row."""
        embedded = self.embeddings(pixel_values.to(self.embeddings.patch_projection.weight.dtype))
        return self.encoder(embedded).last_hidden_state
