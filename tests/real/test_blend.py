"""A blend of real rows, killed at a step that nobody chose, and gone on with on 1, 2 and 4 processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support.assets import link_assets
from tests.support.blends import check_same_batches, run, run_until_killed

pytestmark = pytest.mark.real

RECIPE = """\
# GSM8K and conversations
defaults: [/model: quickstart, /parallelism: single, _self_]
model: {tokenizer: assets/smollm2-135m-instruct, chat_template: null, config: {vocab_size: 49152, eos_token_id: 2}}
parallelism: {param_dtype: float32}
data:
  on_too_long: drop
  train:
    - {path: assets/gsm8k/test.jsonl, format: prompt_response, name: gsm8k,
       columns: {prompt: question, response: answer}, weight: 2}
    - {path: assets/chat/chat.jsonl, format: messages, weight: 1}
    - {path: assets/openmoji/captions.csv, format: prompt_response, name: openmoji,
       columns: {prompt: image, response: caption}, weight: 1}
stage: {seq_len: 512, packing: best_fit, packing_window: 64, micro_batch_size: 1, global_batch_size: 4, max_steps: 8}
logging: {sample_ids: true, trackers: []}
checkpointing: {export: never, every_steps: 1}
"""
WORKERS = {1: 2, 2: 0, 4: 1}


def test_a_killed_blend_goes_on_with_the_same_batches_on_any_mesh(tmp_path: Path) -> None:
    link_assets(tmp_path, "smollm2", "gsm8k", "chat", "openmoji")
    (tmp_path / "blend.yaml").write_text(RECIPE)
    words = ("recipe=blend.yaml",)
    run(tmp_path, *words, "run.name=whole", "data.num_workers=1")
    steps = run_until_killed(tmp_path, "killed", 3, *words)
    assert 3 <= steps < 8
    for ranks, workers in WORKERS.items():
        name = f"on_{ranks}"
        shutil.copytree(tmp_path / "runs/killed", tmp_path / "runs" / name)
        run(tmp_path, *words, f"run.name={name}", f"parallelism.dp_shard={ranks}", f"data.num_workers={workers}")
        check_same_batches(tmp_path, ("whole", name), is_bit_equal=ranks == 1)
