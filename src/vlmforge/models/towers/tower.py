"""What vlmforge must know of a vision tower of a stitched model besides its class; it holds no code that builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tower:
    """One kind of tower.

    Attributes:
        model_type: `model_type` of its config.
        fields: of its config, with the types a recipe may give.
        layers: path in the tower of the list of its blocks, each an FSDP unit.
        mean: of red, green and blue, which is subtracted.
        std: of the same, by which is divided.
        tiny: fields of the tiny version.
        num_prefix_tokens: class and register tokens before those of the patches; a number, or the fields of the
            config whose sum it is.
        needs_whole_patches: whether a tile must be whole patches; the others leave out what is over.
        choices: fields to the values that they may have.
    """

    model_type: str
    fields: Mapping[str, tuple[type, ...]]
    layers: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tiny: Mapping[str, Any]
    num_prefix_tokens: int | tuple[str, ...] = 0
    needs_whole_patches: bool = False
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


# Tiles of 32 pixels a side, cut into 4 x 4 patches.
TINY_TOWER: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}

VIT_FIELDS: Mapping[str, tuple[type, ...]] = {
    "model_type": (str,),
    "hidden_size": (int,),
    "intermediate_size": (int,),
    "num_hidden_layers": (int,),
    "num_attention_heads": (int,),
    "num_channels": (int,),
    "image_size": (int,),
    "patch_size": (int,),
    "hidden_act": (str,),
    "layer_norm_eps": (float,),
    "attention_dropout": (float, int),
    "initializer_range": (float, int),
}
