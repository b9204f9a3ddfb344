"""Remedies for a lack of memory: each passes the checks, needs less, and is not in use yet."""

from __future__ import annotations

import re

import pytest

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.config.remedies import Phase, memory_remedies

SETTING = re.compile(r"[\w.]+=[\w.\[\]-]+")


def overrides_in(remedy: str) -> list[str]:
    """What a user would copy: the words before the explanation."""
    return SETTING.findall(remedy.partition(" (")[0])


BY_TOKENS = ["~stage.micro_batch_size"]
CASES: list[tuple[str, Phase, list[str]]] = [
    ("smollm2/gsm8k_sft", "step", []),
    ("smollm2/gsm8k_sft", "load", []),
    ("smollm2/gsm8k_sft", "score", []),
    ("smollm2/gsm8k_lora", "step", ["parallelism.recompute=full"]),
    ("smollm2/gsm8k_sft", "step", ["stage.micro_batch_size=7", "stage.global_batch_size=49"]),
    ("llama3p1_8b/pretrain_text", "step", ["parallelism.dp_shard=8"]),
    ("quickstart", "step", ["stage.micro_batch_size=1", "data.on_too_long=drop"]),
    ("qwen2p5_0p5b/gsm8k_sp2", "step", [*BY_TOKENS, "stage.max_tokens_per_micro_batch=4096"]),
    ("qwen2p5_0p5b/gsm8k_sp2", "step", [*BY_TOKENS, "stage.max_tokens_per_micro_batch=1024"]),
]


@pytest.mark.parametrize(("recipe", "phase", "words"), CASES)
def test_a_remedy_passes_the_checks_and_changes_something(recipe: str, phase: Phase, words: list[str]) -> None:
    arguments = {"recipe": [recipe], "check_data": ["false"]}
    loaded = load_config(Request("validate", arguments, tuple(words)), environ={})
    remedies = memory_remedies(loaded.config, loaded.batch, phase, has_gpu=True)
    assert remedies
    for remedy in remedies:
        changed = load_config(Request("validate", arguments, (*words, *overrides_in(remedy))), environ={})
        assert changed.config != loaded.config, remedy
        assert changed.config.stage.global_batch_size == loaded.config.stage.global_batch_size


def remedies_of(recipe: str, phase: Phase, *words: str) -> list[list[str]]:
    request = Request("validate", {"recipe": [recipe], "check_data": ["false"]}, words)
    loaded = load_config(request, environ={})
    return [overrides_in(remedy) for remedy in memory_remedies(loaded.config, loaded.batch, phase, has_gpu=True)]


def test_what_is_in_use_already_is_not_advised() -> None:
    words = ("parallelism.recompute=full", "stage.micro_batch_size=1", "model.dtype=bfloat16", "parallelism.dp_shard=4")
    assert remedies_of("smollm2/gsm8k_lora", "step", *words, "parallelism.cpu_offload=true") == [["stage.seq_len=512"]]


def test_a_micro_batch_that_is_halved_still_divides_the_rows_of_a_rank() -> None:
    found = remedies_of("smollm2/gsm8k_sft", "step", "stage.micro_batch_size=9", "stage.global_batch_size=45")
    assert found[0] == ["stage.micro_batch_size=3"]


def test_a_cap_of_tokens_is_halved_down_to_one_row_and_then_the_rows() -> None:
    recipe, cap = "qwen2p5_0p5b/gsm8k_sp2", "stage.max_tokens_per_micro_batch"
    assert remedies_of(recipe, "step", *BY_TOKENS, f"{cap}=4096")[0] == [f"{cap}=2048"]
    assert remedies_of(recipe, "step", *BY_TOKENS, f"{cap}=1500")[0] == [f"{cap}=1024"]
    assert remedies_of(recipe, "step", *BY_TOKENS, f"{cap}=1024")[0] == ["stage.seq_len=512", f"{cap}=512"]


def test_smaller_micro_batches_help_validation_too() -> None:
    words = ("stage.micro_batch_size=4", "evaluate.tasks=[]")
    assert remedies_of("llama3p1_8b/pretrain_text", "score", *words) == [[]]
    assert remedies_of("smollm2/pretrain_wordnet", "score", *words) == [["stage.micro_batch_size=2"]]


def test_rows_that_are_cut_by_tokens_go_to_any_number_of_ranks() -> None:
    words = (*BY_TOKENS, "stage.max_tokens_per_micro_batch=4096", "parallelism.dp_shard=3")
    assert ["parallelism.dp_shard=6"] in remedies_of("qwen2p5_0p5b/gsm8k_sp2", "step", *words)


def test_more_ranks_come_with_a_micro_batch_that_fits() -> None:
    words = ("stage.micro_batch_size=4", "stage.global_batch_size=4")
    assert ["parallelism.dp_shard=2", "stage.micro_batch_size=2"] in remedies_of("smollm2/gsm8k_sft", "step", *words)
