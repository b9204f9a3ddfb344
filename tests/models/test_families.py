"""Family files against transformers' own classes."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from vlmforge.config.schema import Config, ModelConfig, StageConfig
from vlmforge.models import FAMILIES
from vlmforge.models.build import build_on_meta, find_layers

# Accepted by every config class through its base, for files of earlier versions of transformers.
LEGACY = {"rope_theta", "rope_scaling"}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_field_is_one_of_the_class(name: str) -> None:
    family = FAMILIES[name]
    config = AutoConfig.for_model(family.model_type)
    known = set(inspect.signature(type(config).__init__).parameters) | set(vars(config)) | LEGACY
    assert set(family.fields) <= known
    assert set(family.required) <= set(family.fields)
    assert set(family.tiny) <= set(family.fields)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_default_of_the_class_has_a_type_that_the_family_allows(name: str) -> None:
    family = FAMILIES[name]
    config = AutoConfig.for_model(family.model_type)
    wrong = {
        field: value
        for field, types in family.fields.items()
        if (value := getattr(config, field, None)) is not None and not isinstance(value, types)
    }
    assert not wrong


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("is_tied", [True, False])
def test_the_tiny_version_is_the_named_class_and_ties_what_it_says(name: str, is_tied: bool) -> None:
    fields = {**FAMILIES[name].tiny, "tie_word_embeddings": is_tied}
    config = Config(model=ModelConfig(family=name, init="random", config=fields), stage=StageConfig())
    model = build_on_meta(config)
    assert type(model).__name__ == FAMILIES[name].architecture
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is is_tied
    assert len(find_layers(model)) == FAMILIES[name].tiny["num_hidden_layers"]


def test_llama3_rope_scaling_gives_the_frequencies_of_the_paper() -> None:
    # head_dim 128, base 500000, factor 8: unscaled up to 28, between at 30, an eighth from 35 on.
    fields = {
        "hidden_size": 256,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 1,
        "intermediate_size": 8,
        "vocab_size": 8,
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "max_position_embeddings": 131072,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **fields))
    frequencies = model.model.rotary_emb.inv_freq
    expected = {0: 1.0, 28: 3.211446e-3, 30: 1.371894e-3, 35: 9.556212e-5}
    for index, value in expected.items():
        torch.testing.assert_close(frequencies[index].item(), value, rtol=1e-5, atol=0)
