"""RADIO (Ranzinger et al. 2023, arXiv:2312.06709) and C-RADIO: transformers' `RadioModel`, as its authors train it."""

from vlmforge.models.family import CLIP_MEAN, CLIP_STD, without
from vlmforge.models.towers.tower import TINY_TOWER, VIT_FIELDS, Tower

RADIO = Tower(
    model_type="vlmforge_radio",
    fields={
        **without(VIT_FIELDS, "intermediate_size", "attention_dropout"),
        "mlp_ratio": (float, int),
        "qkv_bias": (bool,),
        "max_img_size": (int,),
        "num_cls_tokens": (int,),
        "num_registers": (int,),
        "summary_idxs": (list,),
        # False keeps every patch in its place in training too.
        "crops_positions": (bool,),
    },
    layers="encoder.layer",
    mean=CLIP_MEAN,
    std=CLIP_STD,
    tiny={
        **{name: value for name, value in TINY_TOWER.items() if name != "intermediate_size"},
        "mlp_ratio": 2.0,
        "max_img_size": 64,
        # Drawn at random, places would differ from one mesh to another.
        "crops_positions": False,
    },
    num_prefix_tokens=("num_cls_tokens", "num_registers"),
    needs_whole_patches=True,
)
