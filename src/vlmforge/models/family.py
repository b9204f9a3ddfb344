"""What vlmforge must know of a model family before, and besides, transformers.

A family is a value: the fields of its `config.json` with their types (so that recipes are checked without importing
transformers), where its parts are, and the sizes of its tiny version. It holds no code that builds anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vlmforge.parallel.styles import Style

TEXT_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)

Rgb = tuple[float, float, float]

# What a class of transformers computes that has a lean form: a norm that multiplies by its weight after rounding, one
# that multiplies by 1 + weight before, `down(act(gate(x)) * up(x))`, experts; of Qwen-VL's towers, attention within
# pictures and what makes tokens of patches.
LeanKind = Literal["norm", "norm_of_one", "gated_mlp", "experts", "picture_attention", "patches"]


@dataclass(frozen=True)
class Family:
    """One model family on one transformers class.

    Attributes:
        name: the file's name and the value of `model.family`.
        model_type: `model_type` in config.json.
        architecture: the transformers class, as in `architectures` of config.json.
        fields: Hugging Face field name to the types a recipe may give; `type(None)` where null is allowed.
        required: fields without which the shape is not known.
        groups: group of `stage.trainable` to the module paths that it names, one or several; a parameter belongs to
            the group with the longest path around it, and "" is the whole model.
        tiny: `model.config` of the tiny version, merged over the recipe's own fields.
        tiny_drops: fields of a full-size recipe that have no meaning in the tiny version.
        decoder: module path of what turns ids into hidden states, the final norm included; its blocks are `layers`.
        attentions: values of `model.attention` that transformers' class computes rightly.
        not_adapted: last names of linear modules that an adapter leaves alone, because they return more than a
            tensor, or because peft takes their names for those of experts.
        fused: experts' matrices that the model holds as one tensor, and its files one by one; see `Fused`.
        swapped: ends of the names of such matrices that files may hold as one tensor, inputs and outputs swapped.
        rope_by_layer_type: where kinds of layers have rotary bases of their own, the kind and the field of its base.
        wrapper: the image-text model in whose folders this model's weights are published; see `Wrapper`.
        parts: sections to the values of their `model_type`, where a family takes parts of several kinds.
        choose: of such a family, the family of a config's own parts; see `narrow`.
        renamed: prefixes of tensor names in files to those of the model, where they differ; the first that fits.
        sections: of a model of text and images, config.json's sections with their fields, as `fields` has them.
        vision: how it sees; None: text only.
        tiles: of a stitched model, what its tower makes of a tile; None: another model, or a tower that is not known.
        choices: fields, by their path in config.json, to the values that they may have.
        lean: classes of the model's layers that are trained with a forward pass of our own, and what they compute.
        sharding: how tp and ep cut the model: module pattern to style, as `parallel/styles.py` names them; `*`
            is one part of a name, and a row that ends with ? may match nothing. Every parameter is in some row.
        has_liger: whether `model.kernels` may be liger: the package has kernels for it, and a test puts them in.
    """

    name: str
    model_type: str
    architecture: str
    fields: Mapping[str, tuple[type, ...]]
    tiny: Mapping[str, Any]
    required: tuple[str, ...] = TEXT_REQUIRED
    groups: Mapping[str, str | tuple[str, ...]] = field(default_factory=lambda: {"language_model": ""})
    tiny_drops: tuple[str, ...] = field(default=())
    decoder: str = "model"
    attentions: tuple[str, ...] = ("varlen", "sdpa", "eager")
    not_adapted: tuple[str, ...] = ()
    fused: tuple[Fused, ...] = ()
    swapped: tuple[str, ...] = ()
    rope_by_layer_type: Mapping[str, str] = field(default_factory=dict[str, str])
    wrapper: Wrapper | None = None
    lean: Mapping[str, LeanKind] = field(default_factory=dict[str, LeanKind])
    sharding: Mapping[str, Style] = field(default_factory=dict[str, Style])
    has_liger: bool = False
    sections: Mapping[str, Mapping[str, tuple[type, ...]]] = field(
        default_factory=dict[str, Mapping[str, tuple[type, ...]]]
    )
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    choose: Callable[[Mapping[str, Any]], Family] | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    vision: Vision | None = None
    tiles: Tiles | None = None
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def narrow(self, fields: Mapping[str, Any]) -> Family:
        """The family of a config: itself, or where it takes parts of several kinds, that of the config's own."""
        return self if self.choose is None else self.choose(fields)

    @property
    def layers(self) -> str:
        """Module path of the list of transformer blocks, each an FSDP unit."""
        return f"{self.decoder}.layers"

    @property
    def text_section(self) -> str:
        """The section that holds the language model's shape; empty where there are none."""
        return "text_config" if self.sections else ""

    @property
    def text_fields(self) -> Mapping[str, tuple[type, ...]]:
        """Fields of the language model."""
        return self.sections[self.text_section] if self.text_section else self.fields

    def group_of(self, parameter_name: str) -> str:
        """The group of `stage.trainable` that a parameter belongs to: the one with the longest path around it."""
        paths = {
            path: group
            for group, named in self.groups.items()
            for path in ((named,) if isinstance(named, str) else named)
        }
        around = [path for path in paths if not path or parameter_name.startswith(f"{path}.")]
        return paths[max(around, key=len)]

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Keys of `model.image` that have an effect."""
        return tuple(self.vision.keys) if self.vision is not None else ()


@dataclass(frozen=True)
class Vision:
    """How a family sees.

    Attributes:
        layers: module path of the list of the tower's blocks, each an FSDP unit.
        rule: how a picture becomes tokens: `native`, in patches of its own size; `tiles`, in squares of one size;
            `stitched`, in such squares too, by the rules of Megatron's models.
        keys: keys of `model.image` that have an effect, with what they are where neither the recipe nor a folder
            says it.
        mean: of red, green and blue, which is subtracted, where no folder says it.
        std: of the same, by which is divided.
        has_mrope: whether positions have three parts, time, row and column, and go on after an image from its
            longer side.
    """

    layers: str
    rule: Literal["native", "tiles", "stitched"]
    keys: Mapping[str, Any]
    mean: Rgb
    std: Rgb
    has_mrope: bool = False


@dataclass(frozen=True)
class Tiles:
    """What decides whether the tiles of a stitched model become whole tokens.

    Attributes:
        prefix_tokens: that its tower gives before those of the patches: a number, or the fields of `vision_config`
            whose sum it is.
        needs_whole_patches: whether a tile must be whole patches; other towers leave out what is over.
    """

    prefix_tokens: int | tuple[str, ...]
    needs_whole_patches: bool


@dataclass(frozen=True)
class Fused:
    """How a file holds the experts' matrices that the model holds as one tensor, experts first.

    Attributes:
        parameter: end of the model's name of that tensor.
        pieces: ends of the names of one expert's tensors, `{}` for its number; stacked along their rows, each an
            equal share, they are that expert's matrix.
    """

    parameter: str
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Wrapper:
    """A model of text and images whose folder can be read for its text part alone.

    Attributes:
        model_type: `model_type` of its config.json.
        section: where that holds the text model's fields.
        prefix: what stands before the text model's tensor names; other tensors belong to the images.
    """

    model_type: str
    section: str
    prefix: str


NONE = type(None)

# A block of Llama and of all that have its names: queries, keys, values, gate and up by their outputs, what follows
# them by its inputs.
SHARDED_ATTENTION: Mapping[str, Style] = {
    "model.embed_tokens": "vocab",
    "lm_head": "vocab",
    "model.norm": "replicated",
    "model.layers.*.input_layernorm": "replicated",
    "model.layers.*.post_attention_layernorm": "replicated",
    "model.layers.*.self_attn.q_proj": "colwise",
    "model.layers.*.self_attn.k_proj": "colwise",
    "model.layers.*.self_attn.v_proj": "colwise",
    "model.layers.*.self_attn.o_proj": "rowwise",
}
SHARDED_MLP: Mapping[str, Style] = {
    "model.layers.*.mlp.gate_proj": "colwise",
    "model.layers.*.mlp.up_proj": "colwise",
    "model.layers.*.mlp.down_proj": "rowwise",
}
# Norms of each head: the weight is the same for all heads, and a rank has some of them.
SHARDED_HEAD_NORMS: Mapping[str, Style] = {
    "model.layers.*.self_attn.q_norm": "by_head",
    "model.layers.*.self_attn.k_norm": "by_head",
}

# Fields that every decoder-only text model of transformers has.
TEXT_FIELDS: Mapping[str, tuple[type, ...]] = {
    "vocab_size": (int,),
    "hidden_size": (int,),
    "intermediate_size": (int,),
    "num_hidden_layers": (int,),
    "num_attention_heads": (int,),
    "num_key_value_heads": (int,),
    "max_position_embeddings": (int,),
    "rms_norm_eps": (float, int),
    "hidden_act": (str,),
    "initializer_range": (float, int),
    "attention_dropout": (float, int),
    "tie_word_embeddings": (bool,),
    "rope_theta": (float, int),
    "rope_scaling": (dict, NONE),
    # transformers 5 writes rope_theta and rope_scaling as this one field.
    "rope_parameters": (dict, NONE),
    "bos_token_id": (int, NONE),
    "eos_token_id": (int, list, NONE),
    "pad_token_id": (int, NONE),
}


def below(path: str, table: Mapping[str, Style]) -> dict[str, Style]:
    """A sharding table of a text model that stands at `path` in a model of text and images."""
    return {re.sub(r"^model\b", path, pattern): style for pattern, style in table.items()}


def beside_tower(table: Mapping[str, Style], *seeing: str) -> dict[str, Style]:
    """A sharding table of a model of text and images: its text model's, and what sees, which every rank has whole.

    On purpose: tower and projector are small, and a picture gives no equal parts (docs/vision.md).
    """
    whole: dict[str, Style] = {name: "replicated" for name in seeing}
    return below("model.language_model", table) | whole


def qwen_vision(min_pixels: int, max_pixels: int, mean: Rgb, std: Rgb) -> Vision:
    """How Qwen's towers see; pixels and colours as in the published preprocessor_config.json."""
    keys = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    return Vision("model.visual.blocks", "native", keys=keys, mean=mean, std=std, has_mrope=True)


def without(fields: Mapping[str, tuple[type, ...]], *names: str) -> dict[str, tuple[type, ...]]:
    """The fields but those named."""
    return {name: types for name, types in fields.items() if name not in names}


# Two layers, grouped-query attention, and the 264 tokens of `builtin:bytes`.
TINY_TEXT: Mapping[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": 258,
    "pad_token_id": 256,
}

# The ids that `builtin:bytes` gives to the tokens of images.
TINY_IMAGE_IDS: Mapping[str, int] = {
    "vision_start_token_id": 260,
    "vision_end_token_id": 261,
    "image_token_id": 262,
    "video_token_id": 263,
}

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
