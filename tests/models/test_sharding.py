"""Sharding tables fit the models they are for, and a table that does not is refused with the names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from vlmforge.config.schema import AdapterConfig, ModelConfig
from vlmforge.models import FAMILIES, sharding
from vlmforge.models.adapters import apply_adapter
from vlmforge.models.build import auto_class
from vlmforge.models.shape import build_hf_config
from vlmforge.models.sharding import check_sharding, match_rows


def build(family: str) -> PreTrainedModel:
    shape = build_hf_config(ModelConfig(family=family, config=FAMILIES[family].tiny))
    with torch.device("meta"):
        return auto_class(shape).from_config(shape)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_table_speaks_of_every_parameter_and_adapters_change_nothing_in_that(name: str) -> None:
    model, family = build(name), FAMILIES[name].narrow(FAMILIES[name].tiny)
    assert check_sharding(model, tp=2) == []
    before = match_rows(model, family).modules
    apply_adapter(model, AdapterConfig(rank=2, target_modules=("q_proj", "o_proj")))
    assert match_rows(model, family).modules == before
    assert check_sharding(model, tp=2) == []


def refused(monkeypatch: pytest.MonkeyPatch, rows: dict[str, str]) -> str:
    family = FAMILIES["llama"]
    wrong = replace(family, sharding={**family.sharding, **rows})
    for row in [row for row, style in rows.items() if style == ""]:
        del wrong.sharding[row]
    monkeypatch.setattr(sharding, "find_family", lambda shape: wrong)
    return "\n\n".join(str(problem) for problem in check_sharding(build("llama"), tp=1))


def test_a_row_that_matches_nothing_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, {"model.layers.*.self_attn.q_projection": "colwise"})
    assert "family llama shards model.layers.*.self_attn.q_projection, and LlamaForCausalLM has no such" in message
    assert "nearest: model.layers.0.self_attn.q_proj" in message


def test_a_module_that_no_row_speaks_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, {"model.layers.*.mlp.down_proj": ""})
    assert "says nothing of 2 parameters of LlamaForCausalLM" in message
    assert "model.layers.0.mlp.down_proj.weight" in message


def test_a_row_that_only_some_models_have_may_match_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch, {"model.layers.*.mlp.router?": "replicated"}) == ""


def test_a_folder_whose_heads_do_not_divide_is_refused_when_it_is_read() -> None:
    (problem, *_) = check_sharding(build("llama"), tp=3)
    assert "parallelism.tp = 3 must divide model" in str(problem)
