"""CLIP (Radford et al. 2021, arXiv:2103.00020): transformers' `CLIPVisionModel`, up to its last block."""

from vlmforge.models.family import CLIP_MEAN, CLIP_STD
from vlmforge.models.towers.tower import TINY_TOWER, VIT_FIELDS, Tower

CLIP = Tower(
    model_type="clip_vision_model",
    fields={**VIT_FIELDS, "projection_dim": (int,), "initializer_factor": (float, int)},
    layers="encoder.layers",
    mean=CLIP_MEAN,
    std=CLIP_STD,
    tiny=TINY_TOWER,
    num_prefix_tokens=1,
)
