"""Pictures' features in the place of their tokens.

The tower and the projector run on the pictures of the whole micro-batch. A micro-batch without any runs them on a
stand-in, the smallest picture there is, and adds its features times zero: ranks that share the weights must all gather
them, and all reduce their gradients, whoever has pictures.
"""

# Shapes: T tokens, D hidden, F features of all pictures.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlmforge.models.image_types import ImageTensors
from vlmforge.models.shape import find_family


@dataclass(frozen=True)
class ImageFeatures:
    """What tower and projector give.

    Attributes:
        embeds: `[F, D]`, in the order of the pictures.
        deepstack: more of the same shape, each added to what one of the first text layers gives.
    """

    embeds: Tensor
    deepstack: tuple[Tensor, ...]


def compute_features(model: PreTrainedModel, images: ImageTensors) -> ImageFeatures:
    """Run tower and projector over some pictures."""
    inputs: dict[str, Tensor] = {"pixel_values": images.pixel_values}
    if images.image_grid_thw is not None:
        inputs["image_grid_thw"] = images.image_grid_thw
    see: Any = model.get_image_features
    output = see(**inputs, return_dict=True)
    deepstack = getattr(output, "deepstack_features", None) or ()
    return ImageFeatures(_flatten(output.pooler_output), tuple(_flatten(features) for features in deepstack))


def _flatten(features: Any) -> Tensor:
    """`[F, D]` of a list with an entry a picture, or of `[tiles, tokens, D]`."""
    return features.flatten(0, -2) if isinstance(features, Tensor) else torch.cat(list(features))


def embed(
    model: PreTrainedModel, input_ids: Tensor, image_index: Tensor, images: ImageTensors | None
) -> tuple[Tensor, dict[str, Any]]:
    """Embeddings of text and pictures, and what else the text layers take from pictures.

    Args:
        model: of a family that sees.
        input_ids: `[1, T]`, or a slice of them.
        image_index: of the same shape: which feature stands at a token, -1 where none does.
        images: of the whole micro-batch.

    Returns:
        `[1, T, D]`, and arguments of the language model.
    """
    embedding: Any = model.get_input_embeddings()
    is_image = image_index >= 0
    # The placeholder may lie beyond the table: it is looked up as another and replaced.
    embeds: Tensor = embedding(input_ids.masked_fill(is_image, 0))
    features = compute_features(model, stand_in(model, input_ids.device) if images is None else images)
    everything = (features.embeds, *features.deepstack)
    # Also of pictures none of whose tokens are in this slice.
    zero = torch.stack([(tensor.float() * 0.0).sum() for tensor in everything]).sum()
    embeds = embeds + zero.to(embeds.dtype)
    if not bool(is_image.any()):
        return embeds, {}
    picked = [tensor[image_index[is_image]].to(embeds.dtype) for tensor in everything]
    embeds = embeds.masked_scatter(is_image.unsqueeze(-1), picked[0])
    if not features.deepstack:
        return embeds, {}
    return embeds, {"visual_pos_masks": is_image, "deepstack_visual_embeds": picked[1:]}


def index_images(model: PreTrainedModel, input_ids: Tensor, images: ImageTensors | None) -> Tensor:
    """`[1, T]`: which feature stands at a token, counted over the whole micro-batch; -1 where none does."""
    is_image = input_ids == model.config.image_token_id
    if images is None:
        assert not bool(is_image.any()), "image tokens without images"
    return torch.where(is_image, is_image.flatten().cumsum(0).view_as(is_image) - 1, -1)


def stand_in(model: PreTrainedModel, device: torch.device) -> ImageTensors:
    """The smallest picture: one token of zeros, or a whole tile where a tower takes nothing smaller."""
    vision, config = find_family(model.config).vision, model.config.vision_config
    assert vision is not None, "a family that sees"
    if vision.rule == "native":
        merge = config.spatial_merge_size
        values = config.in_channels * config.temporal_patch_size * config.patch_size**2
        grid = torch.tensor([[1, merge, merge]], device=device)
        return ImageTensors(torch.zeros(merge * merge, values, device=device), grid)
    if vision.rule == "stitched":
        return ImageTensors(torch.zeros(1, 3, config.image_size, config.image_size, device=device))
    side = round(1 / model.config.downsample_ratio)
    height, width = (side * size for size in config.patch_size)
    return ImageTensors(torch.zeros(1, config.num_channels, height, width, device=device))
