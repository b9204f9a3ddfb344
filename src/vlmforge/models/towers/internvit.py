"""InternViT of 6B and 300M parameters (Chen et al. 2023, arXiv:2312.14238); the class is ours."""

from vlmforge.models.family import IMAGENET_MEAN, IMAGENET_STD
from vlmforge.models.towers.tower import TINY_TOWER, VIT_FIELDS, Tower

INTERNVIT = Tower(
    model_type="vlmforge_internvit",
    fields={
        **VIT_FIELDS,
        "head_dim": (int,),
        "num_dummy_heads": (int,),
        "norm_type": (str,),
        "qkv_bias": (bool,),
        "use_qk_norm": (bool,),
        "layer_scale_init_value": (float, int),
    },
    layers="encoder.layers",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    # Heads that are no power of two, as the tower of 6B parameters has them, filled up to four.
    tiny={**TINY_TOWER, "num_attention_heads": 3, "num_dummy_heads": 1, "head_dim": 16},
    num_prefix_tokens=1,
    choices={"norm_type": ("layer_norm", "rms_norm")},
)
