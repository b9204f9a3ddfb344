"""A stored config with the recipe's fields over it, above all rotary positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.tiny import EXTRA_FIELDS, merge, stitched_fields

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.config.schema import ModelConfig
from vlmforge.models import FAMILIES
from vlmforge.models.shape import build_hf_config
from vlmforge.models.stitched import LANGUAGE_MODELS

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
RECIPES = ("smollm2/gsm8k_sft", "llama3p1_8b/pretrain_text", "qwen2p5_0p5b/gsm8k_lora")


def store(folder: Path, **fields: Any) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **fields}))
    return str(folder)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("is_new_style", [True, False])
def test_a_hub_folder_with_the_stated_shape_gives_the_stated_model(
    recipe: str, is_new_style: bool, tmp_path: Path
) -> None:
    """What happens when a recipe's hub id is fetched, without the hub."""
    request = Request("validate", {"recipe": [recipe], "check_data": ["false"]})
    model = load_config(request, environ={}).config.model
    stated = build_hf_config(model, is_offline=True)
    if is_new_style:
        stated.save_pretrained(tmp_path)
    else:
        store(tmp_path, **{"model_type": stated.model_type, **model.config})
    fetched = build_hf_config(ModelConfig(pretrained=str(tmp_path), config=model.config))
    assert fetched.rope_parameters == stated.rope_parameters
    assert {name: getattr(fetched, name) for name in model.config if not name.startswith("rope")} == {
        name: getattr(stated, name) for name in model.config if not name.startswith("rope")
    }


@pytest.mark.parametrize(
    ("stored", "own", "expected"),
    [
        ({"rope_theta": 1e5}, {}, {"rope_type": "default", "rope_theta": 1e5}),
        ({"rope_theta": 1e5}, {"rope_theta": 5.0}, {"rope_type": "default", "rope_theta": 5.0}),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, {}, {**LLAMA3, "rope_theta": 5e5}),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, {"rope_theta": 1e6}, {**LLAMA3, "rope_theta": 1e6}),
        ({"rope_theta": 5e5}, {"rope_scaling": LLAMA3}, {**LLAMA3, "rope_theta": 5e5}),
        (
            {"rope_theta": 5e5, "rope_scaling": LLAMA3},
            {"rope_scaling": None},
            {"rope_type": "default", "rope_theta": 5e5},
        ),
        ({"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}, {"rope_theta": 7.0}, {**LLAMA3, "rope_theta": 7.0}),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {},
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
        ),
    ],
)
def test_rotary_fields_are_merged_in_one_form(
    stored: dict[str, Any], own: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    config = build_hf_config(ModelConfig(pretrained=store(tmp_path, **stored), config=own))
    assert config.rope_parameters == expected


def test_a_file_cannot_choose_the_attention(tmp_path: Path) -> None:
    folder = store(tmp_path, attn_implementation="someone/kernel", _attn_implementation="someone/kernel")
    assert "someone" not in str(build_hf_config(ModelConfig(pretrained=folder))._attn_implementation)


def test_kinds_of_layers_have_bases_of_their_own(tmp_path: Path) -> None:
    """Gemma 3's files of 2025 state both bases and one scaling, which is of the layers that see all."""
    scaling = {"type": "linear", "factor": 8.0}
    fields = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": scaling}
    folder = store(tmp_path, model_type="gemma3_text", **fields)
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    for own, base in (({}, 1e4), ({"rope_local_base_freq": 5.0}, 5.0)):
        shape = build_hf_config(ModelConfig(pretrained=folder, config=own))
        assert shape.rope_parameters == {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": base},
        }
        shape.save_pretrained(tmp_path / "again")
        assert build_hf_config(ModelConfig(pretrained=str(tmp_path / "again"))).rope_parameters == shape.rope_parameters


@pytest.mark.parametrize("name", [name for name, one in FAMILIES.items() if one.model_type in LANGUAGE_MODELS])
def test_a_language_model_behind_a_tower_has_the_rotary_positions_of_one_alone(name: str, tmp_path: Path) -> None:
    alone = build_hf_config(ModelConfig(family=name, config=merge(FAMILIES[name].tiny, EXTRA_FIELDS[name])))
    stitched = build_hf_config(ModelConfig(family="stitched", config=stitched_fields("clip", name)))
    assert stitched.text_config.rope_parameters == alone.rope_parameters
    stitched.save_pretrained(tmp_path)
    again = build_hf_config(ModelConfig(pretrained=str(tmp_path)))
    assert again.text_config.rope_parameters == alone.rope_parameters
