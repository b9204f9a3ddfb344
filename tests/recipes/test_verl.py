"""The recipes with the numbers of verl's SFT scripts for text: what they come to, against the numbers written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlmforge.cli import main
from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.config.recipes import locate_recipe
from vlmforge.config.schema import Config

# What verl's sft_trainer.yaml says and no script changes.
DEFAULTS: dict[str, Any] = {
    "train_batch_size": 256,
    "micro_batch_size_per_gpu": 4,
    "max_length": 1024,
    "truncation": "error",
    "lr": 1e-5,
    "betas": (0.9, 0.95),
    "weight_decay": 0.01,
    "clip_grad": 1.0,
    "lr_scheduler": "cosine",
    "warmup_steps_ratio": 0.1,
    "min_lr_ratio": 0.0,
    "model_dtype": "float32",
    "compute_dtype": "bfloat16",
    "reduce_dtype": "float32",
    "enable_gradient_checkpointing": True,
    "use_liger": False,
    "lora": None,
    "total_epochs": 4,
    "total_training_steps": None,
    "ulysses_sequence_parallel_size": 1,
    "seed": 1,
    "prompt": "extra_info.question",
    "response": "extra_info.answer",
}
LORA = {"lora_rank": 32, "lora_alpha": 16, "target_modules": "all-linear"}
SP2 = {"ulysses_sequence_parallel_size": 2}
# Script, recipe, and what the script changes.
SCRIPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "run_deepseek_6b7": (
        "deepseek_coder_6p7b/gsm8k_sft",
        {"model": "deepseek-ai/deepseek-coder-6.7b-instruct", "total_epochs": 4},
    ),
    "run_gemma_2b": ("gemma_2b/gsm8k_sft", {"model": "google/gemma-2b-it", "total_epochs": 2}),
    "run_gemma_7b": ("gemma1p1_7b/gsm8k_sft", {"model": "google/gemma-1.1-7b-it", "total_epochs": 4}),
    "run_qwen_05_peft": (
        "qwen2p5_0p5b/gsm8k_lora",
        {"model": "Qwen/Qwen2.5-0.5B-Instruct", "lora": LORA, "lr": 1e-4, "total_epochs": 1},
    ),
    "run_qwen_05_sp2": (
        "qwen2p5_0p5b/gsm8k_sp2",
        {"model": "Qwen/Qwen2.5-0.5B-Instruct", "lr": 1e-4, "total_training_steps": 1, **SP2},
    ),
    "run_qwen_05_sp2_liger": (
        "qwen2p5_0p5b/gsm8k_sp2_liger",
        {"model": "Qwen/Qwen2.5-0.5B-Instruct", "lr": 1e-4, "use_liger": True, **SP2},
    ),
    "run_qwen3_8b_sft_peft_sp2_npu": (
        "qwen3_8b/gsm8k_lora_sp2",
        {
            "model": "Qwen/Qwen3-8B",
            "lora": LORA,
            "lr": 1e-4,
            "total_epochs": 2,
            "micro_batch_size_per_gpu": 64,
            **SP2,
        },
    ),
    "multiturn/run_qwen_05_sp2": (
        "multiturn/qwen2p5_0p5b_sp2",
        {"model": "Qwen/Qwen2.5-0.5B-Instruct", "total_training_steps": 1, "prompt": None, "response": None, **SP2},
    ),
    "run_seed_oss_36b_sft": (
        "seed_oss_36b/gsm8k_sp2",
        {"model": "ByteDance-Seed/Seed-OSS-36B-Base", "lr": 1e-4, "total_training_steps": 1, **SP2},
    ),
}


def load(recipe: str, *words: str) -> Config:
    return load_config(Request("validate", {"recipe": [recipe], "check_data": ["false"]}, words), environ={}).config


def as_verl_says_it(config: Config) -> dict[str, Any]:
    """The numbers of a resolved recipe under verl's names."""
    stage, adapter = config.stage, config.stage.adapter
    (train,) = config.data.train
    assert (stage.kind, stage.labels, stage.packing) == ("lora" if adapter else "sft", "assistant", "none")
    assert stage.optimizer.decay == "all"
    return {
        "model": config.model.pretrained,
        "train_batch_size": stage.global_batch_size,
        "micro_batch_size_per_gpu": stage.micro_batch_size,
        "max_length": stage.seq_len,
        "truncation": config.data.on_too_long,
        "lr": stage.optimizer.lr,
        "betas": stage.optimizer.betas,
        "weight_decay": stage.optimizer.weight_decay,
        "clip_grad": stage.optimizer.max_grad_norm,
        "lr_scheduler": stage.schedule.name,
        "warmup_steps_ratio": stage.schedule.warmup_ratio,
        "min_lr_ratio": stage.schedule.min_lr_ratio,
        "model_dtype": config.model.dtype,
        "compute_dtype": config.parallelism.param_dtype,
        "reduce_dtype": config.parallelism.reduce_dtype,
        "enable_gradient_checkpointing": config.parallelism.recompute == "full",
        "use_liger": config.model.kernels == "liger",
        "lora": adapter
        and {"lora_rank": adapter.rank, "lora_alpha": adapter.alpha, "target_modules": adapter.target_modules},
        "total_epochs": stage.max_epochs,
        "total_training_steps": stage.max_steps,
        "ulysses_sequence_parallel_size": config.parallelism.cp,
        "seed": config.data.seed,
        "prompt": train.columns.get("prompt"),
        "response": train.columns.get("response"),
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_recipe_has_the_numbers_of_its_script(script: str) -> None:
    recipe, changes = SCRIPTS[script]
    assert as_verl_says_it(load(recipe)) == {**DEFAULTS, **changes}
    assert locate_recipe(recipe).path.read_text().splitlines()[0].endswith(script)


@pytest.mark.parametrize(("world_size", "words"), [(1, []), (2, []), (4, []), (8, ["stage.micro_batch_size=4"])])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_recipe_is_cut_into_whole_micro_batches_on_one_to_eight_gpus(
    script: str, world_size: int, words: list[str]
) -> None:
    arguments = {"recipe": [SCRIPTS[script][0]], "check_data": ["false"], "world_size": [str(world_size)]}
    # One rank alone has whole sequences.
    whole = ["parallelism.cp=1"] if world_size == 1 else []
    loaded = load_config(Request("validate", arguments, (*words, *whole)), environ={})
    assert loaded.batch.grad_accum_steps is not None
    rows = loaded.batch.num_data_ranks * loaded.batch.grad_accum_steps * loaded.config.stage.micro_batch_size
    assert rows == 256


def test_tiny_leaves_the_liger_kernels_out_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert load("qwen2p5_0p5b/gsm8k_sp2_liger", "scale=tiny").model.kernels == "torch"
    assert main(["show", "recipe=qwen2p5_0p5b/gsm8k_sp2_liger", "scale=tiny"]) == 0
    assert "kernels: torch  # scale=tiny" in capsys.readouterr().out


def test_the_page_of_recipes_lists_the_scripts() -> None:
    page = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
    for script, (recipe, _) in SCRIPTS.items():
        assert f"| `{script}` | `{recipe}` |" in page
