"""The reference of a comparison: a small model and its adapter as plain transformers and plain peft have them.

Written without vlmforge's own building, sharding or loading, so that a fault there cannot hide in both sides.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from vlmforge.config.schema import Config
from vlmforge.models.adapters import adaptable_modules, is_adapter, lora_config, without_transformers_warnings
from vlmforge.models.build import auto_class
from vlmforge.models.shape import build_hf_config, find_family, plain_attention

# Larger than what models are trained from: attention is sharp, and a wrong mask or position is seen. Of a model that is
# wider than this less, by the root: else every step would multiply by ten what rounding has left.
INITIALIZER_RANGE = 0.1
WIDTH = 64
LORA_B_STD = 0.05


def make_base(config: Config, folder: Path, seed: int = 0) -> None:
    """Draw a recipe's model and write it as a Hugging Face folder."""
    shape = build_hf_config(config.model)
    for part in (shape, *(getattr(shape, section) for section in find_family(shape).sections)):
        width = getattr(part, "hidden_size", None) or part.get_text_config().hidden_size
        part.initializer_range = INITIALIZER_RANGE * min(1.0, math.sqrt(WIDTH / width))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = auto_class(shape).from_config(shape, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            # Biases of 0 and norms of 1 would hide a missing one.
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=INITIALIZER_RANGE)
            elif parameter.ndim == 1:
                parameter.data += INITIALIZER_RANGE * torch.randn_like(parameter)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)


def make_adapter(config: Config, base: Path, folder: Path, seed: int = 1) -> None:
    """Draw the adapter of a recipe on the model of a folder and write it as a PEFT folder.

    Both matrices are random: with peft's B of zeros the gradient of A would be zero, and prove nothing.
    """
    assert config.stage.adapter is not None
    model: PreTrainedModel = auto_class(AutoConfig.from_pretrained(base, trust_remote_code=False)).from_pretrained(base)
    family = find_family(model.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(model, lora_config(config.stage.adapter, model, adaptable_modules(model, family)))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=LORA_B_STD)
    adapted.save_pretrained(str(folder))


def load_plain(config: Config) -> nn.Module:
    """The model of a recipe's folders, with its adapter, by transformers and peft alone.

    What is trained is as in the recipe; `model(input_ids=...)` gives an object with `logits`.
    """
    assert config.model.pretrained is not None
    folder = config.model.pretrained
    transformers_logging.disable_progress_bar()
    shape = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model: Any = auto_class(shape).from_pretrained(folder, attn_implementation=plain_attention(shape))
    adapter, groups = config.stage.adapter, config.stage.trainable
    family = find_family(model.config)
    if adapter is not None:
        with without_transformers_warnings():
            model = PeftModel.from_pretrained(model, str(adapter.path), is_trainable=True)
    if groups is not None:
        for name, parameter in model.named_parameters():
            own = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            parameter.requires_grad_(is_adapter(name) or family.group_of(own) in groups)
    return model


def plain_name(parameter_name: str, is_lora: bool) -> str:
    """The name that a parameter of vlmforge's model has in the plain one."""
    return f"base_model.model.{parameter_name}" if is_lora else parameter_name
