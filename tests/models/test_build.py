"""First weights: by transformers' rules, and refused when they are of another model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.support.tiny import make_base, merge
from transformers import AutoConfig, AutoModelForCausalLM

from vlmforge.checkpoint.store import SafetensorsReader
from vlmforge.config.schema import AdapterConfig, Config, ModelConfig, RunConfig, StageConfig
from vlmforge.errors import CheckpointError, ConfigError
from vlmforge.models import FAMILIES
from vlmforge.models.build import auto_class, build_on_meta, check_on_meta, materialise

CPU = torch.device("cpu")


def random_config(seed: int = 0, **fields: object) -> Config:
    shape = {**FAMILIES["llama"].tiny, "tie_word_embeddings": True, "attention_bias": True, **fields}
    model = ModelConfig(family="llama", init="random", config=shape)
    return Config(model=model, run=RunConfig(seed=seed))


def build(config: Config) -> torch.nn.Module:
    model = build_on_meta(config)
    materialise(model, config, CPU, SafetensorsReader())
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_follow_transformers_rules(family: str) -> None:
    larger = {"hidden_size": 256, "intermediate_size": 512, "initializer_range": 0.05}
    larger |= {"attention_bias": True} if "attention_bias" in FAMILIES[family].text_fields else {}
    section = FAMILIES[family].text_section
    fields = merge(FAMILIES[family].tiny, {section: larger} if section else larger)
    if "out_hidden_size" in fields.get("vision_config", {}):
        fields["vision_config"] = {**fields["vision_config"], "out_hidden_size": 256}
    model = build(Config(model=ModelConfig(family=family, init="random", config=fields)))
    plain = auto_class(model.config).from_config(model.config)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        if name.endswith("class_embedding"):
            continue
        if ours.ndim > 1:
            # The deviation of n numbers is known to about 0.7 / sqrt(n) of itself.
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=5 / ours.numel() ** 0.5), name
            assert abs(ours.mean().item()) < 5 * 0.05 / ours.numel() ** 0.5, name
        else:
            assert torch.equal(ours, theirs), name
    for (name, ours), (_, theirs) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_random_weights_depend_on_the_seed_and_the_name_alone() -> None:
    one, same, other = (dict(build(random_config(seed)).named_parameters()) for seed in (0, 0, 1))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
    assert not torch.equal(one[name], one["model.layers.1.self_attn.q_proj.weight"])


def test_an_adapter_starts_as_the_base_model() -> None:
    config = random_config()
    with_adapter = Config(model=config.model, stage=StageConfig(kind="lora", adapter=AdapterConfig(rank=4)))
    plain, adapted = build(config).eval(), build(with_adapter).eval()
    ids = torch.arange(10)[None]
    for model in (plain, adapted):
        model.set_attn_implementation("sdpa")
    assert torch.equal(plain(input_ids=ids).logits, adapted(input_ids=ids).logits)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in adapted.named_parameters() if "lora_" in name}
    assert not any("lm_head" in name for name in trained)


def test_every_target_module_must_match() -> None:
    adapter = AdapterConfig(target_modules=("q_proj", "k_pro", "lm_head"))
    config = Config(model=random_config().model, stage=StageConfig(kind="lora", adapter=adapter))
    with pytest.raises(ConfigError, match=r"k_pro matches no linear module[\s\S]*k_proj"):
        build_on_meta(config)
    assert [problem.what.split()[1] for problem in check_on_meta(config)] == ["k_pro", "lm_head"]


def test_one_target_module_is_a_name_not_a_pattern() -> None:
    adapter = AdapterConfig(target_modules="q_proj", rank=4)
    model = build_on_meta(Config(model=random_config().model, stage=StageConfig(kind="lora", adapter=adapter)))
    trained = {name.split(".lora_")[0].rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"q_proj"}


def test_weights_come_from_the_folder(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "qwen2")
    model = build(Config(model=ModelConfig(family="qwen2", pretrained=str(base))))
    for name, theirs in AutoModelForCausalLM.from_pretrained(base).named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], theirs), name


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "llama")
    wider = ModelConfig(family="llama", pretrained=str(base), config={"intermediate_size": 160})
    with pytest.raises(CheckpointError, match=r"gate_proj.weight has shape \[128, 64\] on disk and \[160, 64\]"):
        build(Config(model=wider))
    deeper = ModelConfig(family="llama", pretrained=str(base), config={"num_hidden_layers": 3})
    with pytest.raises(CheckpointError, match=r"tensors missing, for example model.layers.2"):
        build(Config(model=deeper))
    shallower = ModelConfig(family="llama", pretrained=str(base), config={"num_hidden_layers": 1})
    with pytest.raises(CheckpointError, match=r"tensors left over, for example model.layers.1"):
        build(Config(model=shallower))


def test_a_model_type_without_a_family_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("gpt2").save_pretrained(tmp_path)
    problems = check_on_meta(Config(model=ModelConfig(pretrained=str(tmp_path))))
    assert "gpt2" in problems[0].what
    assert "internvl or vlmforge_stitched" in problems[0].fix
