"""Family files against transformers' own classes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.support.group_files import read_model_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from vlmforge.config.recipes import installed_folder
from vlmforge.config.schema import Config, ModelConfig, StageConfig
from vlmforge.models import FAMILIES
from vlmforge.models.build import build_on_meta, count_flops_per_token, count_parameters, find_layers

# Accepted by config classes through their base: the fields of earlier files, one that Qwen3-MoE's layers read, and ids
# that Qwen3-VL's files have in their text section.
LEGACY = {"rope_theta", "rope_scaling", "rope_local_base_freq", "head_dim", "bos_token_id", "eos_token_id"}

# Parameters of the published weights, a tied head counted once; Llama 4's are those of its language model.
PUBLISHED = {
    "deepseek_coder_6p7b": 6_740_512_768,
    "gemma_2b": 2_506_172_416,
    "gemma1p1_7b": 8_537_680_896,
    "gemma2_2b": 2_614_341_888,
    "gemma3_1b": 999_885_952,
    "internvl3_1b": 938_193_024,
    "llama3_8b": 8_030_261_248,
    "llama3p1_8b": 8_030_261_248,
    "llama4_scout": 107_769_861_120,
    "mistral_7b_v0p1": 7_241_732_096,
    "mistral_7b_v0p3": 7_248_023_552,
    "qwen2p5_0p5b": 494_032_768,
    "qwen2p5_vl_3b": 3_754_622_976,
    "qwen3_0p6b": 596_049_920,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_8b": 8_190_735_360,
    "qwen3_vl_2b": 2_127_532_032,
    "qwen3_vl_30b_a3b": 31_070_754_032,
    "seed_oss_36b": 36_151_104_512,
    "smollm2_135m": 134_515_008,
    # Stitched: the sum of the published language model (Llama's with 256 more rows), the tower (the release's with
    # its dummy heads, CLIP's and SigLIP's without what is behind the last block) and the projector.
    "mistral_clip": 7_248_023_552 + 303_505_408 + 73_400_320,
    "nemotron_nano_vl_8b": 8_032_358_400 + 651_642_880 + 37_767_168,
    "nvlm_d_72b": 72_706_203_648 + 6_052_672_640 + 620_717_056,
    "nvlm_qwen2_72b_internvit_6b": 72_706_203_648 + 5_536_496_000 + 620_717_056,
    "nvlm_qwen2p5_7b_internvit_6b": 7_615_616_512 + 5_536_496_000 + 58_733_056,
    "nvlm_qwen2p5_7b_siglip": 7_615_616_512 + 413_327_088 + 29_364_736,
    # With 64 more rows; the tower is trained from nothing.
    "nvlm_smollm2": 134_551_872 + 2_822_592 + 2_108_544,
    "nvlm_yi_34b_internvit_6b": 34_388_917_248 + 5_536_496_000 + 408_970_240,
}


def build_from_file(name: str) -> PreTrainedModel:
    stated = read_model_file(name)
    return build_on_meta(Config(model=ModelConfig(family=stated["family"], init="random", config=stated["config"])))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_file_has_the_published_number_of_parameters(name: str) -> None:
    assert count_parameters(build_from_file(name))[0] == PUBLISHED[name]


# Those that a token goes through; the others' are all.
ACTIVE = {
    "qwen3_30b_a3b": 3_353_032_704,
    "llama4_scout": 17_172_894_720,
    "qwen3_0p6b": 596_049_920,
    # Its language model's.
    "qwen3_vl_2b": 1_720_574_976,
    "qwen3_vl_30b_a3b": 3_353_032_704,
}


@pytest.mark.parametrize("name", ACTIVE)
def test_experts_count_as_operations_where_a_token_goes_through_them(name: str) -> None:
    assert count_flops_per_token(build_from_file(name)) == 6 * ACTIVE[name]


def test_every_model_with_weights_is_counted() -> None:
    files = (installed_folder("configs") / "model").glob("*.yaml")
    assert {path.stem for path in files if "pretrained:" in path.read_text()} == set(PUBLISHED)


def levels(name: str) -> list[tuple[Any, Mapping[str, tuple[type, ...]], Mapping[str, Any]]]:
    """A family's class with its fields and its tiny sizes, and the same of each of its sections."""
    family = FAMILIES[name].narrow(FAMILIES[name].tiny)
    config = AutoConfig.for_model(family.model_type)
    inner = [(getattr(config, key), fields, family.tiny[key]) for key, fields in family.sections.items()]
    return [(config, family.fields, family.tiny), *inner]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_field_is_one_of_the_class(name: str) -> None:
    for config, fields, tiny in levels(name):
        known = set(inspect.signature(type(config).__init__).parameters) | set(vars(config)) | LEGACY
        assert set(fields) <= known | {"model_type"}
        assert set(tiny) <= set(fields)
    assert set(FAMILIES[name].required) <= set(FAMILIES[name].text_fields)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_default_of_the_class_has_a_type_that_the_family_allows(name: str) -> None:
    for config, fields, _ in levels(name):
        wrong = {
            field: value
            for field, types in fields.items()
            if field not in FAMILIES[name].sections
            and (value := getattr(config, field, None)) is not None
            and not isinstance(value, types)
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
    text, vision = model.config.get_text_config(), getattr(model.config, "vision_config", None)
    num_tower_layers = 0 if vision is None else vision.num_hidden_layers
    assert len(find_layers(model)) == text.num_hidden_layers + num_tower_layers
    assert set(FAMILIES[name].attentions) >= {"varlen", "eager"}
    assert ("sdpa" in FAMILIES[name].attentions) is type(model)._supports_sdpa


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
