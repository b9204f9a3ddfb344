"""The recipes with the numbers of Megatron's vision-language scripts: what they come to, against numbers written out.

Steps are whole ones; learning rates are pairs of the highest and the lowest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.config.schema import Config

# Trainable, rows a step, steps, tokens, rates, warm-up (in samples, or a share of the steps), decay in samples, betas,
# decay of weights, clipping, deviation of new weights, steps between checkpoints.
NVLM = {
    "betas": (0.9, 0.95), "weight_decay": 0.1, "clip": 10.0, "warmup": 83_200, "decay": 25_600_000, "std": 0.014,
}  # fmt: skip
PRETRAIN = {**NVLM, "trainable": ("projector",), "rows": 2048, "steps": 60_000, "tokens": 512, "lr": (1e-4, 2.5e-5)}
SFT = {**NVLM, "trainable": ("projector", "language_model"), "tokens": 3200, "lr": (2e-6, 2.5e-7)}
NANO = {"betas": (0.9, 0.999), "clip": 1.0, "std": 0.02}
MISTRAL = {"betas": (0.9, 0.95), "warmup": 0.01, "decay": None, "steps": 20_000, "std": 0.014}
TRAINED: dict[str, dict[str, Any]] = {
    "nemotron_nano_vl_8b/pretrain": {
        **NANO, "trainable": ("projector",), "rows": 1024, "steps": 1456, "tokens": 4096, "lr": (2e-4, 0.0),
        "warmup": 102_400, "decay": 1_491_231, "weight_decay": 0.01, "saved": None,
    },
    "nemotron_nano_vl_8b/sft": {
        **NANO, "trainable": None, "rows": 128, "steps": 19_486, "tokens": 16_384, "lr": (2e-5, 0.0),
        "warmup": 74_827, "decay": 2_494_236, "weight_decay": 0.05, "saved": 2000,
    },
    "nvlm/pretrain_qwen2_72b_internvit_6b": {**PRETRAIN, "saved": 5000},
    "nvlm/pretrain_yi_34b_internvit_6b": {**PRETRAIN, "saved": 2000},
    "nvlm/sft_qwen2_72b_internvit_6b": {**SFT, "rows": 256, "steps": 480_000, "saved": 10_000},
    "nvlm/sft_yi_34b_internvit_6b": {**SFT, "rows": 128, "steps": 234_375, "saved": 5000},
    "nvlm/sft_qwen2p5_7b_internvit_6b_video": {
        **SFT, "trainable": None, "rows": 256, "steps": 25_789, "tokens": 16_384, "warmup": 198_065,
        "decay": 6_602_173, "saved": 500,
    },
    "mistral_clip/pretrain": {
        **MISTRAL, "trainable": ("projector",), "rows": 256, "tokens": 1024, "lr": (1.5e-4, 1e-5),
        "weight_decay": 0.01, "clip": 1.0, "saved": 1000,
    },
    "mistral_clip/sft": {
        **MISTRAL, "trainable": ("projector", "language_model"), "rows": 128, "tokens": 2048, "lr": (1e-6, 1e-7),
        "weight_decay": 0.1, "clip": 0.5, "saved": 500,
    },
}  # fmt: skip
# Longest answer, seed, tiles of a picture, tags of tiles, frames, positions.
ANSWERED = {
    "nemotron_nano_vl_8b/generate": (1024, 153, 12, "none", 1, 131_072),
    "nvlm/generate_qwen2_72b_internvit_6b": (16, 1234, 6, "default", 8, 8192),
    "nvlm/generate_yi_34b_internvit_6b": (16, 1234, 6, "yi", 8, 8192),
    "nvlm/generate_qwen2p5_7b_internvit_6b_video": (128, 153, 1, "none", 32, 16_384),
    "nvlm/generate_qwen2p5_7b_siglip": (128, 153, 12, "none", 8, 32_768),
    "mistral_clip/generate": (12, 153, 1, "none", 8, 4096),
}


def load(recipe: str) -> Config:
    return load_config(
        Request("validate", {"recipe": [recipe], "world_size": ["8"]}), with_data=False, environ={}
    ).config


@pytest.mark.parametrize("recipe", TRAINED)
def test_a_training_recipe_has_the_numbers_of_its_script(recipe: str) -> None:
    config = load(recipe)
    stage, optimizer, schedule = config.stage, config.stage.optimizer, config.stage.schedule
    assert {
        "trainable": stage.trainable,
        "rows": stage.global_batch_size,
        "steps": stage.max_steps,
        "tokens": stage.seq_len,
        "lr": (optimizer.lr, pytest.approx(optimizer.lr * schedule.min_lr_ratio)),
        "warmup": schedule.warmup_samples or schedule.warmup_ratio,
        "decay": schedule.decay_samples,
        "betas": optimizer.betas,
        "weight_decay": optimizer.weight_decay,
        "clip": optimizer.max_grad_norm,
        "std": config.model.config["initializer_range"],
        "saved": config.checkpointing.every_steps,
    } == TRAINED[recipe]
    assert (stage.micro_batch_size, stage.packing, optimizer.decay, schedule.name) == (1, "none", "matrices", "cosine")
    assert (config.data.on_too_long, config.data.on_bad_sample) == ("truncate", "skip")
    is_weighed = stage.loss.weighting == "sqrt_turns"
    assert is_weighed == recipe.startswith("nemotron")


@pytest.mark.parametrize("recipe", ANSWERED)
def test_an_answering_recipe_has_the_numbers_of_its_script(recipe: str) -> None:
    config = load(recipe)
    generation, image = config.stage.generation, config.model.image
    assert (config.stage.kind, generation.temperature, generation.batch_size) == ("generate", 0.0, 1)
    positions = config.model.config["text_config"]["max_position_embeddings"]
    found = (generation.max_new_tokens, generation.seed, image.max_tiles, image.tile_tags, image.num_frames, positions)
    assert found == ANSWERED[recipe]


def test_the_page_of_recipes_lists_them() -> None:
    page = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
    assert [name for name in (*TRAINED, *ANSWERED) if f"| `{name}` |" not in page] == []
