"""The pictures of a sample as HTML, each as the tower gets it: in tiles, or in one piece."""

from __future__ import annotations

from html import escape

import numpy as np
import numpy.typing as npt

from vlmforge.data.media import encode_thumbnail
from vlmforge.preview.terminal import describe_image
from vlmforge.preview.view import ShownImage, ShownSample

# Longer side of what is shown of a tile among others, and of a picture in one piece.
MAX_TILE_PIXELS = 112
MAX_PICTURE_PIXELS = 288


def write_pictures(sample: ShownSample) -> str:
    """The pictures of a sample as the tower gets them."""
    if not sample.images:
        return ""
    figures = "".join(_write_picture(image, number) for number, image in enumerate(sample.images, 1))
    return f'<div class="pictures">{figures}</div>'


def _write_picture(image: ShownImage, number: int) -> str:
    """One picture: its tiles as they lie in it, then the whole if the model sees that too."""
    frames, rows, columns = image.grid
    side = MAX_TILE_PIXELS if image.is_tiled else MAX_PICTURE_PIXELS
    pictures = [_write_pixels(tile, side, f"image {number}, tile {k}") for k, tile in enumerate(image.tiles, 1)]
    width = columns if image.is_tiled else 1
    num_in_grid = frames * rows * columns if image.is_tiled else len(pictures)
    lines = [pictures[start : start + width] for start in range(0, num_in_grid, width)]
    mosaic = "".join(f"<div>{''.join(line)}</div>" for line in lines)
    whole = "".join(pictures[num_in_grid:])
    caption = escape(f"{describe_image(image, number)}, from token {image.start + 1} on: {image.name}")
    return f'<figure><div class="mosaic"><div>{mosaic}</div>{whole}</div><figcaption>{caption}</figcaption></figure>'


def _write_pixels(tile: npt.NDArray[np.uint8], side: int, name: str) -> str:
    """A tile, inline."""
    data, width, height = encode_thumbnail(tile, side)
    return f'<img alt="{name}" width="{width}" height="{height}" src="data:image/jpeg;base64,{data}">'
