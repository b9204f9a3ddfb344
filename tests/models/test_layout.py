"""Weights in the layout of the published folders, read and written, against transformers' own reading and writing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tests.support.tiny import EXTRA_FIELDS, TARGETS, load_plain, make_adapter, make_base
from transformers import AutoModelForCausalLM, Llama4Config, Llama4ForConditionalGeneration, PreTrainedModel

from vlmforge.checkpoint.store import SafetensorsReader
from vlmforge.config.derived import Axes
from vlmforge.config.schema import AdapterConfig, Config, ModelConfig, StageConfig
from vlmforge.errors import CheckpointError
from vlmforge.models import FAMILIES
from vlmforge.models.build import build_on_meta, materialise
from vlmforge.models.export import export_adapter, export_model
from vlmforge.models.tokenizer import build_byte_tokenizer
from vlmforge.parallel.mesh import open_world


def load(folder: Path, stage: StageConfig | None = None) -> PreTrainedModel:
    config = Config(model=ModelConfig(pretrained=str(folder)), stage=stage or StageConfig())
    model = build_on_meta(config)
    materialise(model, config, torch.device("cpu"), SafetensorsReader())
    return model


def export(model: PreTrainedModel, folder: Path) -> Path:
    with open_world(Axes(), "cpu", 60.0):
        export_model(model, build_byte_tokenizer(), folder, stop_ids=(258,), is_main=True)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_transformers_comes_back_with_the_same_names_and_bits(family: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", family)
    model = load(base)
    plain = load_plain(base)
    assert_equal(dict(model.named_parameters()), dict(plain.named_parameters()))
    assert_equal(dict(model.named_buffers()), dict(plain.named_buffers()))
    exported = export(model, tmp_path / "export")
    assert_equal(weights(exported), weights(base))
    again = load_plain(exported)
    assert type(again) is type(plain)
    assert_equal(again.state_dict(), plain.state_dict())


@pytest.mark.parametrize("family", TARGETS)
def test_adapters_leave_experts_and_router_alone(family: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / family, family)
    adapter = make_adapter(tmp_path / "adapter", base)
    stage = StageConfig(kind="lora", adapter=AdapterConfig(rank=4, alpha=8, path=str(adapter)))
    model = load(base, stage)
    trained = {
        name.partition(".lora_")[0].rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad
    }
    assert trained == {target.rpartition(".")[2] for target in TARGETS[family]}
    assert_equal(weights(export(model, tmp_path / "export")), weights(base))
    # Read, written and read by peft again, it is the same adapter.
    assert stage.adapter is not None
    with open_world(Axes(), "cpu", 60.0):
        export_adapter(model, build_byte_tokenizer(), tmp_path / "again", stage.adapter, str(base), None, is_main=True)
    ours, theirs = (
        get_peft_model_state_dict(PeftModel.from_pretrained(load_plain(base), str(folder)))
        for folder in (tmp_path / "again", adapter)
    )
    assert_equal(ours, theirs)


def test_experts_have_a_tensor_each_in_the_files(tmp_path: Path) -> None:
    names = weights(make_base(tmp_path, "qwen3_moe")).keys()
    assert "model.layers.1.mlp.experts.3.gate_proj.weight" in names
    assert not any(name.endswith("gate_up_proj") for name in names)


def test_experts_may_be_one_tensor_in_the_files(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "qwen3_moe")
    plain = AutoModelForCausalLM.from_pretrained(base)
    # Under the names of the model, as `save_pretrained(save_original_format=False)` writes them.
    save_file(plain.state_dict(), base / "model.safetensors", metadata={"format": "pt"})
    assert_equal(dict(load(base).named_parameters()), dict(plain.named_parameters()))


def test_experts_may_have_inputs_and_outputs_swapped_in_the_files(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "qwen3_vl_moe")
    plain = load_plain(base)
    # As the published files have them, and transformers reads but does not write.
    swapped = {
        name: tensor.mT.contiguous() if ".experts." in name else tensor for name, tensor in weights(base).items()
    }
    save_file(swapped, base / "model.safetensors", metadata={"format": "pt"})
    assert_equal(load_plain(base).state_dict(), plain.state_dict())
    assert_equal(dict(load(base).named_parameters()), dict(plain.named_parameters()))


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    base = make_base(tmp_path, "qwen3_moe")
    kept = weights(base)
    del kept["model.layers.0.mlp.experts.2.up_proj.weight"]
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors missing, for example model.layers.0.mlp.experts.2.up_proj"):
        load(base)


def test_the_language_model_of_an_image_text_folder_is_read_alone(tmp_path: Path) -> None:
    text = {**FAMILIES["llama4"].tiny, **EXTRA_FIELDS["llama4"], "initializer_range": 0.1}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vision_output_dim": 32,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "image_size": 28,
    }
    torch.manual_seed(0)
    both = Llama4ForConditionalGeneration(Llama4Config(text_config=text, vision_config=vision))
    both.save_pretrained(tmp_path / "both")
    assert any(name.startswith("vision_model.") for name in weights(tmp_path / "both"))
    model = load(tmp_path / "both")
    assert model.config.attention_chunk_size == text["attention_chunk_size"]
    assert_equal(model.state_dict(), both.language_model.state_dict())
    exported = export(model, tmp_path / "export")
    again = AutoModelForCausalLM.from_pretrained(exported)
    assert type(again).__name__ == "Llama4ForCausalLM"
    assert_equal(again.state_dict(), both.language_model.state_dict())
