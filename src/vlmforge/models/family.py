"""What vlmforge must know of a model family before, and besides, transformers.

A family is a value: the fields of its `config.json` with their types (so that recipes are checked without importing
transformers), where its parts are, and the sizes of its tiny version. It holds no code that builds anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One model family on one transformers class.

    Attributes:
        name: the file's name and the value of `model.family`.
        model_type: `model_type` in config.json.
        architecture: the transformers class, as in `architectures` of config.json.
        fields: Hugging Face field name to the types a recipe may give; `type(None)` where null is allowed.
        required: fields without which the shape is not known.
        layers: module path of the list of transformer blocks, each an FSDP unit.
        groups: group of `stage.trainable` to the module path prefix that it names; "" is the whole model.
        tiny: `model.config` of the tiny version, merged over the recipe's own fields.
        tiny_drops: fields of a full-size recipe that have no meaning in the tiny version.
    """

    name: str
    model_type: str
    architecture: str
    fields: Mapping[str, tuple[type, ...]]
    required: tuple[str, ...]
    layers: str
    groups: Mapping[str, str]
    tiny: Mapping[str, Any]
    tiny_drops: tuple[str, ...] = field(default=())


NONE = type(None)

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

TEXT_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)

# Two layers, grouped-query attention, and the 261 tokens of `builtin:bytes` rounded up.
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
