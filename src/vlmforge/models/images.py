"""How each family sees pictures: tokens from width and height alone, positions, pixels by transformers' own processors.

Two rules. `NativeRule`: a picture keeps its shape, is scaled so that its sides are whole tokens and its area within a
budget, and is cut into patches (Qwen-VL). `TileRule`: it is scaled to a grid of square tiles, with a thumbnail of the
whole where there is more than one (InternVL).
"""

# Shapes: S tokens of one sample, N pictures.

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor, get_optimal_tiled_canvas
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize

from vlmforge.config.schema import ModelConfig
from vlmforge.errors import ConfigError, Problem
from vlmforge.models.family import Family, Vision
from vlmforge.models.hub import fetch_folder
from vlmforge.models.image_types import Grid, ImageLayout, ImageTensors
from vlmforge.models.shape import build_hf_config, find_family
from vlmforge.models.stitched_images import StitchedRule, build_stitched_processor, derive_stitched_rule

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmforge.data.images import ImageRule
    from vlmforge.data.images import ImageTensors as AnyImageTensors
    from vlmforge.data.sample import RenderedSample

# The most tiles of a picture, from one step of shrinking to the next.
_TILE_STEPS = (12, 8, 6, 4, 2, 1)

# What transformers' AutoProcessor makes of an exported folder, by family.
_PROCESSORS: dict[str, tuple[Any, Any]] = {
    "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
    "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
    "internvl": (InternVLProcessor, InternVLVideoProcessor),
}
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def build_image_rule(model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> ImageRule | None:
    """How the model of a recipe sees pictures; None where it takes text only.

    Raises:
        ConfigError: the tokenizer has no token for pictures.
        CheckpointError: the hub id cannot be fetched.
    """
    shape = build_hf_config(model)
    return derive_image_rule(shape, build_image_processor(model, shape), tokenizer, model.image.num_frames)


def derive_image_rule(
    shape: PretrainedConfig, processor: Any, tokenizer: PreTrainedTokenizerBase, num_frames: int
) -> ImageRule | None:
    """The rule of a model that exists; see `build_image_rule`.

    Args:
        shape: the model's config.
        processor: as `build_image_processor` makes it.
        tokenizer: the model's.
        num_frames: of a film that are seen.
    """
    family = find_family(shape)
    if family.vision is None:
        return None
    if family.vision.rule == "stitched":
        return derive_stitched_rule(shape, processor, tokenizer, num_frames)
    placeholder = int(shape.image_token_id)
    _check_placeholder(tokenizer, placeholder)
    tags = _tag_ids(tokenizer)
    if family.vision.rule == "native":
        return NativeRule(processor, placeholder, frozenset(tags), family.vision.has_mrope, num_frames)
    num_tokens = int(shape.image_seq_length)
    own_tags = () if _writes_tags(tokenizer, tags) else tuple(tags)
    return TileRule(processor, placeholder, frozenset(tags), own_tags, num_tokens, num_frames)


def _check_placeholder(tokenizer: PreTrainedTokenizerBase, placeholder: int) -> None:
    if placeholder < len(tokenizer) and tokenizer.convert_ids_to_tokens(placeholder) is not None:
        return
    problem = Problem(
        f"the tokenizer has {len(tokenizer)} tokens, and model.config.image_token_id = {placeholder} is none of them",
        "model.tokenizer",
        "use the tokenizer that belongs to the model (leave model.tokenizer out)",
    )
    raise ConfigError(problem)


def _tag_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens before and after a picture, by the names that tokenizers give them."""
    named = (("start_image_token", "end_image_token"), ("vision_bos_token", "vision_eos_token"))
    words = next(((getattr(tokenizer, a), getattr(tokenizer, b)) for a, b in named if hasattr(tokenizer, a)), None)
    known = tokenizer.get_vocab()
    words = words or ("<|vision_start|>", "<|vision_end|>")
    return [known[word] for word in words if word in known]


def _writes_tags(tokenizer: PreTrainedTokenizerBase, tags: Sequence[int]) -> bool:
    """Whether the chat template puts them around a picture; InternVL's own leaves them to the processor."""
    if not tokenizer.chat_template or not tags:
        return False
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    text = str(tokenizer.apply_chat_template([turn], tokenize=False))
    return str(tokenizer.convert_ids_to_tokens(tags[0])) in text


def build_image_processor(model: ModelConfig, shape: PretrainedConfig) -> Any:
    """Transformers' own image processor for the model, with the recipe's budget; None where it takes text only."""
    family = find_family(shape)
    if family.vision is None:
        return None
    budget = {name: value for name in family.vision.keys if (value := getattr(model.image, name)) is not None}
    folder = _processor_folder(model)
    if family.vision.rule == "stitched":
        return build_stitched_processor(folder, shape, family.vision, budget)
    if folder is None:
        processor = _default_processor(family.vision, shape)
    else:
        processor = AutoImageProcessor.from_pretrained(folder)
    return _with_budget(processor, family, budget)


def _processor_folder(model: ModelConfig) -> Path | None:
    """The folder of `pretrained`, if it says how pictures are prepared."""
    if model.pretrained is None:
        return None
    folder = fetch_folder(model.pretrained, with_weights=False, revision=model.revision)
    return folder if any((folder / name).is_file() for name in PROCESSOR_FILES) else None


def _default_processor(vision: Vision, shape: Any) -> Any:
    """As published, with the model's own patch or tile size."""
    tower = shape.vision_config
    colours: dict[str, Any] = {"image_mean": list(vision.mean), "image_std": list(vision.std)}
    if vision.rule == "native":
        return Qwen2VLImageProcessor(
            patch_size=tower.patch_size,
            temporal_patch_size=tower.temporal_patch_size,
            merge_size=tower.spatial_merge_size,
            **vision.keys,
            **colours,
        )
    height, width = tower.image_size
    options: dict[str, Any] = {"crop_to_patches": True, "max_patches": vision.keys["max_tiles"]}
    return GotOcr2ImageProcessor(size={"height": height, "width": width}, **options, **colours)


def _with_budget(processor: Any, family: Family, budget: dict[str, int]) -> Any:
    """The same processor with what the recipe says, in place."""
    expected = Qwen2VLImageProcessor if family.vision and family.vision.rule == "native" else GotOcr2ImageProcessor
    if not isinstance(processor, expected):
        problem = Problem(
            f"the folder's image processor is a {type(processor).__name__}; family {family.name} needs a "
            f"{expected.__name__}",
            "model.pretrained",
            "give a folder of this family that transformers' AutoProcessor reads",
        )
        raise ConfigError(problem)
    if isinstance(processor, Qwen2VLImageProcessor):
        least, most = budget.get("min_pixels"), budget.get("max_pixels")
        size: Any = processor.size
        processor.size = {
            "shortest_edge": least or size["shortest_edge"],
            "longest_edge": most or size["longest_edge"],
        }
    else:
        processor.crop_to_patches = True
        processor.max_patches = budget.get("max_tiles", processor.max_patches)
    return processor


def save_processor(
    folder: Path, shape: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, rule: ImageRule | None
) -> None:
    """Save the tokenizer, with all that transformers' AutoProcessor needs where the model sees."""
    if rule is None:
        tokenizer.save_pretrained(folder)
        return
    if isinstance(rule, StitchedRule):
        tokenizer.save_pretrained(folder)
        rule.processor.save_pretrained(folder)
        return
    assert isinstance(rule, NativeRule | TileRule), "a rule of this file"
    processor_class, video_class = _PROCESSORS[find_family(shape).name]
    video_processor = video_class()
    template = tokenizer.chat_template
    more = {"image_seq_length": rule.num_tokens} if isinstance(rule, TileRule) else {}
    processor = processor_class(rule.processor, tokenizer, video_processor, chat_template=template, **more)
    processor.save_pretrained(folder)


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
            shown.append([_to_bytes(frame, self.processor) for frame in pixels.reshape(frames, rows * size, -1, 3)])
        return shown


class TileRule:
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
        self.num_frames = num_frames
        self.placeholder_id = placeholder_id
        self.tag_ids = tag_ids
        self.processor = processor
        self._own_tags = own_tags
        self.num_tokens = num_tokens

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
        features = (self.placeholder_id,) * (_count_tiles((1, rows, columns)) * self.num_tokens)
        return ImageLayout((*self._own_tags[:1], *features, *self._own_tags[1:]), grid=(1, rows, columns))

    def shrink(self) -> TileRule | None:
        """See `ImageRule`: the next fewer tiles of 12, 8, 6, 4, 2 and 1, as Megatron's examples do."""
        processor = copy(self.processor)
        processor.max_patches = next((count for count in _TILE_STEPS if count < processor.max_patches), 0)
        if not processor.max_patches:
            return None
        processor.min_patches = min(processor.min_patches, processor.max_patches)
        return TileRule(processor, self.placeholder_id, self.tag_ids, self._own_tags, self.num_tokens, self.num_frames)

    @property
    def frame_shrinks(self) -> int:
        """See `ImageRule`: a frame is one tile."""
        return sum(count < self.processor.max_patches for count in _TILE_STEPS)

    def positions(self, sample: RenderedSample) -> npt.NDArray[np.int64]:
        """See `ImageRule`: `[1, S]`."""
        return np.arange(sample.num_tokens)[None]

    def make_tensors(self, pictures: Sequence[Image], grids: Sequence[Grid]) -> ImageTensors:
        """See `ImageRule`."""
        made = self.processor(images=list(pictures), return_tensors="pt")
        assert list(made["num_patches"]) == [_count_tiles(grid) for grid in grids], "pictures of another size than told"
        return ImageTensors(made["pixel_values"])

    def show_tensors(self, tensors: AnyImageTensors, grids: Sequence[Grid]) -> list[list[npt.NDArray[np.uint8]]]:
        """See `ImageRule`: row by row, the thumbnail last."""
        tiles = tensors.pixel_values.permute(0, 2, 3, 1).split([_count_tiles(grid) for grid in grids])
        return [[_to_bytes(tile, self.processor) for tile in picture] for picture in tiles]


@lru_cache(maxsize=4096)
def _choose_tiles(size: tuple[int, int], tile: tuple[int, int], least: int, most: int) -> tuple[int, int]:
    """Columns and rows of tiles whose shape is nearest to the picture's."""
    return get_optimal_tiled_canvas(size, tile, least, most)


def _count_tiles(grid: Grid) -> int:
    """Tiles with the thumbnail, which a single tile does not have."""
    count = grid[1] * grid[2]
    return count + 1 if count > 1 else count


def _to_bytes(pixels: Tensor, processor: Any) -> npt.NDArray[np.uint8]:
    """`[height, width, 3]` from normalised pixels."""
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    return ((pixels.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
