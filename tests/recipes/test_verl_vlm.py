"""The recipe with the numbers of verl's SFT script for pictures, against the numbers written out."""

from __future__ import annotations

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request


def test_the_recipe_has_the_numbers_of_run_qwen3_vl_2b() -> None:
    request = Request("validate", {"recipe": ["qwen3_vl_2b/sft"], "world_size": ["8"]})
    loaded = load_config(request, with_data=False, environ={})
    config, stage = loaded.config, loaded.config.stage
    assert config.model.pretrained == "Qwen/Qwen3-VL-2B-Instruct"
    assert (stage.global_batch_size, stage.seq_len, stage.max_tokens_per_micro_batch) == (96, 2048, 65_536)
    assert (stage.max_epochs, stage.packing, config.data.on_too_long) == (10, "none", "error")
    optimizer, schedule = stage.optimizer, stage.schedule
    assert (optimizer.lr, optimizer.weight_decay, optimizer.betas) == (2e-5, 0.1, (0.9, 0.95))
    assert (optimizer.max_grad_norm, optimizer.decay) == (1.0, "all")
    assert (schedule.name, schedule.warmup_ratio, schedule.min_lr_ratio) == ("cosine", 0.01, 0.1)
    # Nothing is frozen; eight trainers, two of them to a sequence.
    assert stage.trainable is None
    assert stage.adapter is None
    assert (loaded.batch.axes.dp_shard, loaded.batch.axes.cp) == (4, 2)
    assert (config.checkpointing.every_steps, config.checkpointing.keep_last) == (4000, 5)
