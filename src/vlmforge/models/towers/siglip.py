"""SigLIP (Zhai et al. 2023, arXiv:2303.15343): transformers' `SiglipVisionModel` without its pooling head."""

from vlmforge.models.family import HALF, without
from vlmforge.models.towers.tower import TINY_TOWER, VIT_FIELDS, Tower

SIGLIP = Tower(
    model_type="siglip_vision_model",
    fields=without(VIT_FIELDS, "initializer_range"),
    layers="encoder.layers",
    mean=HALF,
    std=HALF,
    tiny=TINY_TOWER,
)
