"""Liger kernels: refused where they cannot run, and put on the model that is trained, before it is sharded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from vlmforge.cli import main
from vlmforge.config.derived import Axes
from vlmforge.config.rules import machine
from vlmforge.config.schema import AdapterConfig, Config, ModelConfig, StageConfig
from vlmforge.errors import ConfigError
from vlmforge.models import FAMILIES
from vlmforge.models.build import build_on_meta
from vlmforge.parallel.mesh import open_world
from vlmforge.train import session

FOR_LIGER = [name for name, family in FAMILIES.items() if family.has_liger]


def tiny_config(family: str, stage: StageConfig | None = None) -> Config:
    shape = {**FAMILIES[family].tiny, "tie_word_embeddings": True}
    model = ModelConfig(family=family, init="random", config=shape, kernels="liger")
    return Config(model=model, stage=stage or StageConfig())


@pytest.mark.parametrize("has_gpu", [True, False])
def test_training_is_refused_where_the_kernels_cannot_run(
    has_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    monkeypatch.setattr("vlmforge.commands.configuring.count_gpus", lambda config, environ: int(has_gpu))
    words = ["recipe=dates", "model.kernels=liger"]
    assert main(["validate", *words]) == 0, "another machine may train it"
    assert main(["train", *words]) == 2
    report = capsys.readouterr().err
    assert ("this machine shows no GPU" in report) is not has_gpu
    assert "needs the package liger-kernel, which is not installed" in report
    assert "pip install 'vlmforge[liger]'" in report
    assert not (tmp_path / "runs").exists()


def test_a_tiny_run_says_that_it_leaves_the_kernels_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlmforge.train.loop.train", lambda config, sizes: 0)
    for recipe, is_said in (("qwen2p5_0p5b/gsm8k_sp2_liger", True), ("qwen2p5_0p5b/gsm8k_sp2", False)):
        assert main(["train", f"recipe={recipe}", "scale=tiny"]) == 0
        assert ("scale=tiny: model.kernels = torch" in capsys.readouterr().out) is is_said


def test_a_device_that_is_not_there_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "recipe=quickstart", "launch.device=cuda"]) == 2


def test_the_model_is_patched_before_it_is_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def record(model: torch.nn.Module) -> None:
        seen.append(any(isinstance(parameter, DTensor) for parameter in model.parameters()))

    monkeypatch.setattr(session, "apply_liger", record)
    with open_world(Axes(), "cpu", 60) as world:
        root = session.build_root(tiny_config("llama"), world)
    assert seen == [False]
    assert all(isinstance(parameter, DTensor) for parameter in root.parameters())


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, whose change to rotary positions is undone after the test."""
    pytest.importorskip("liger_kernel", reason="pip install 'vlmforge[liger]'")
    for name in FOR_LIGER:
        module = sys.modules[type(build_on_meta(tiny_config(name))).__module__]
        monkeypatch.setattr(module, "apply_rotary_pos_emb", vars(module)["apply_rotary_pos_emb"])


@pytest.mark.usefixtures("liger")
@pytest.mark.parametrize("name", FOR_LIGER)
@pytest.mark.parametrize("adapter", [None, AdapterConfig(rank=2)], ids=["full", "lora"])
def test_norms_mlps_and_rotary_positions_are_the_packages(name: str, adapter: AdapterConfig | None) -> None:
    from vlmforge.models.liger import apply_liger

    model = build_on_meta(tiny_config(name, StageConfig(kind="lora", adapter=adapter) if adapter else None))
    module = sys.modules[type(model).__module__]
    classes = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    apply_liger(model)
    layer = model.base_model.layers[0]
    for part in (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm, model.base_model.norm):
        assert part.forward.__module__.startswith("liger_kernel."), type(part)
    assert vars(module)["apply_rotary_pos_emb"].__module__.startswith("liger_kernel.")
    # The loss has a head of its own, and models built later are transformers' own.
    assert type(model).forward is model.forward.__func__
    assert {key: vars(module)[key] for key in classes} == classes


@pytest.mark.usefixtures("liger")
def test_the_package_has_kernels_for_every_family_that_claims_them() -> None:
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as KERNELS

    assert {FAMILIES[name].model_type for name in FOR_LIGER} <= set(KERNELS)


@pytest.mark.usefixtures("liger")
def test_a_model_without_kernels_is_an_error_and_not_a_log_line() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from vlmforge.models.liger import apply_liger

    shape = AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=2, vocab_size=64)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    with pytest.raises(ConfigError, match="changed nothing in GPT2LMHeadModel"):
        apply_liger(model)
