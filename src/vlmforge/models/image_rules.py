"""How pictures become tokens, from width and height alone, positions, and pixels by transformers' own processors.

Two rules. `NativeRule`: a picture keeps its shape, is scaled so that its sides are whole tokens and its area within a
budget, and is cut into patches (Qwen-VL). `TileRule`: it is scaled to a grid of square tiles, with a thumbnail of the
whole where there is more than one (InternVL).
"""

# Shapes: S tokens of one sample.

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from vlmforge.models.image_types import Grid, ImageLayout, ImageTensors
from vlmforge.models.square_tiles import SquareTiles, fewer_tiles, to_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmforge.data.images import ImageTensors as AnyImageTensors
    from vlmforge.data.sample import RenderedSample


class NativeRule:
    """Pictures of their own shape, in patches; `merge_size` squared of them are a token."""

    masks_next = False
    # A frame has the budget of a picture.
    frame_shrinks = 0

    def __init__(
        self, processor: Any, placeholder_id: int, tag_ids: frozenset[int], has_mrope: bool, num_frames: int
    ) -> None:
        """Take a Qwen2VLImageProcessor, the ids of the tokenizer, and how many frames of a film are seen."""
        self.num_frames = num_frames
        self.placeholder_id = placeholder_id
        self.tag_ids = tag_ids
        self.processor = processor
        self._has_mrope = has_mrope

    def join(self, before: list[int], lead: str) -> list[int]:
        """See `ImageRule`: pictures of this rule have no lead."""
        raise NotImplementedError

    def measure(self, width: int, height: int) -> ImageLayout:
        """See `ImageRule`."""
        processor = self.processor
        resized = smart_resize(
            height,
            width,
            factor=processor.patch_size * processor.merge_size,
            min_pixels=processor.size["shortest_edge"],
            max_pixels=processor.size["longest_edge"],
        )
        rows, columns = (side // processor.patch_size for side in resized)
        return ImageLayout(
            (self.placeholder_id,) * (rows * columns // processor.merge_size**2), grid=(1, rows, columns)
        )

    def shrink(self) -> NativeRule | None:
        """See `ImageRule`: half the pixels, down to four tokens."""
        processor = copy(self.processor)
        least, most = processor.size["shortest_edge"], processor.size["longest_edge"] // 2
        if most < 4 * (processor.patch_size * processor.merge_size) ** 2:
            return None
        processor.size = {"shortest_edge": min(least, most), "longest_edge": most}
        return NativeRule(processor, self.placeholder_id, self.tag_ids, self._has_mrope, self.num_frames)

    def positions(self, sample: RenderedSample) -> npt.NDArray[np.int64]:
        """See `ImageRule`: `[4, S]`, plain ones, then time, row and column.

        Text goes on in all three from the largest position before it; a picture's tokens have its start plus their
        frame, row and column (Qwen2-VL, arXiv:2409.12191).
        """
        plain = np.arange(sample.num_tokens)
        if not self._has_mrope:
            return plain[None]
        parts = np.empty((3, sample.num_tokens), np.int64)
        at = position = 0
        for span in sample.images:
            parts[:, at : span.start] = position + np.arange(span.start - at)
            position += span.start - at
            frames, rows, columns = span.grid[0], *(side // self.processor.merge_size for side in span.grid[1:])
            parts[:, span.start : span.stop] = position + np.indices((frames, rows, columns)).reshape(3, -1)
            position += max(rows, columns)
            at = span.stop
        parts[:, at:] = position + np.arange(sample.num_tokens - at)
        return np.concatenate([plain[None], parts])

    def make_tensors(self, pictures: Sequence[Image], grids: Sequence[Grid]) -> ImageTensors:
        """See `ImageRule`."""
        made = self.processor(images=list(pictures), return_tensors="pt")
        assert made["image_grid_thw"].tolist() == [list(grid) for grid in grids], "pictures of another size than told"
        return ImageTensors(made["pixel_values"], made["image_grid_thw"])

    def show_tensors(self, tensors: AnyImageTensors, grids: Sequence[Grid]) -> list[list[npt.NDArray[np.uint8]]]:
        """See `ImageRule`: a picture is one tile."""
        size, merge = self.processor.patch_size, self.processor.merge_size
        shown: list[list[npt.NDArray[np.uint8]]] = []
        lengths = [frames * rows * columns for frames, rows, columns in grids]
        for patches, (frames, rows, columns) in zip(tensors.pixel_values.split(lengths), grids, strict=True):
            # As the processor laid them out; of the frames that a patch spans, the first.
            blocks = patches.view(frames, rows // merge, columns // merge, merge, merge, 3, -1, size, size)
            pixels = blocks[:, :, :, :, :, :, 0].permute(0, 1, 3, 6, 2, 4, 7, 5)
            shown.append([to_bytes(frame, self.processor) for frame in pixels.reshape(frames, rows * size, -1, 3)])
        return shown


class TileRule(SquareTiles):
    """Square tiles, each as many tokens, and a thumbnail of the whole where there are several."""

    masks_next = False

    def __init__(
        self,
        processor: Any,
        placeholder_id: int,
        tag_ids: frozenset[int],
        own_tags: tuple[int, ...],
        num_tokens: int,
        num_frames: int,
    ) -> None:
        """Prepare.

        Args:
            processor: a GotOcr2ImageProcessor.
            placeholder_id: of the tokenizer.
            tag_ids: tokens around a picture, whoever writes them.
            own_tags: first and last token of a picture, if the template does not write them.
            num_tokens: of a tile.
            num_frames: of a film that are seen.
        """
        super().__init__(processor, placeholder_id, tag_ids, num_tokens, num_frames)
        self._own_tags = own_tags

    @property
    def max_tiles(self) -> int:
        """Of a picture."""
        return self.processor.max_patches

    def count_tiles(self, grid: Grid) -> int:
        """Tiles with the thumbnail, which a single tile does not have."""
        count = grid[1] * grid[2]
        return count + 1 if count > 1 else count

    def join(self, before: list[int], lead: str) -> list[int]:
        """See `ImageRule`: pictures of this rule have no lead."""
        raise NotImplementedError

    def measure(self, width: int, height: int) -> ImageLayout:
        """See `ImageRule`."""
        columns, rows = _choose_tiles(
            (height, width),
            (self.processor.size["height"], self.processor.size["width"]),
            self.processor.min_patches,
            self.processor.max_patches,
        )
        features = (self.placeholder_id,) * (self.count_tiles((1, rows, columns)) * self.num_tokens)
        return ImageLayout((*self._own_tags[:1], *features, *self._own_tags[1:]), grid=(1, rows, columns))

    def shrink(self) -> TileRule | None:
        """See `ImageRule`: the next fewer tiles, as Megatron's examples do."""
        smaller = copy(self)
        smaller.processor = copy(self.processor)
        smaller.processor.max_patches = fewer_tiles(self.max_tiles)
        smaller.processor.min_patches = min(self.processor.min_patches, smaller.max_tiles)
        return smaller if smaller.max_tiles else None

    def make_tensors(self, pictures: Sequence[Image], grids: Sequence[Grid]) -> ImageTensors:
        """See `ImageRule`."""
        made = self.processor(images=list(pictures), return_tensors="pt")
        assert list(made["num_patches"]) == [*map(self.count_tiles, grids)], "pictures of another size than told"
        return ImageTensors(made["pixel_values"])


@lru_cache(maxsize=4096)
def _choose_tiles(size: tuple[int, int], tile: tuple[int, int], least: int, most: int) -> tuple[int, int]:
    """Columns and rows of tiles whose shape is nearest to the picture's."""
    return get_optimal_tiled_canvas(size, tile, least, most)
