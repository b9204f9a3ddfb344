"""A blend of real rows, killed at a step that nobody chose, and gone on with on 1, 2 and 4 processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest
from tests.support.assets import link_assets
from tests.support.blends import check_same_batches, run, run_until_killed
from transformers import AutoTokenizer

from vlmforge.config.schema import Config, DataConfig, SourceConfig, StageConfig
from vlmforge.data.window import build_train_windows

pytestmark = pytest.mark.real

GSM8K = SourceConfig(
    path=("assets/gsm8k/test.jsonl",),
    format="prompt_response",
    columns={"prompt": "question", "response": "answer"},
)
RECIPE = """\
# GSM8K, conversations of two people, and pictures with what they show
model:
  family: qwen3_vl
  init: random
  tokenizer: builtin:bytes
  chat_template: builtin:chatml
  image: {min_pixels: 256, max_pixels: 16384}
  config:
    text_config: {vocab_size: 264, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2,
                  num_attention_heads: 4, num_key_value_heads: 2, head_dim: 32, eos_token_id: 258, pad_token_id: 256,
                  rope_scaling: {rope_type: default, mrope_interleaved: true, mrope_section: [6, 5, 5]}}
    vision_config: {depth: 2, hidden_size: 32, intermediate_size: 64, num_heads: 2, patch_size: 8,
                    out_hidden_size: 64, num_position_embeddings: 64, deepstack_visual_indexes: [0]}
    image_token_id: 262
    video_token_id: 263
    vision_start_token_id: 260
    vision_end_token_id: 261
parallelism: {dp_shard: 1, param_dtype: float32}
data:
  on_too_long: drop
  train:
    - {path: assets/gsm8k/test.jsonl, format: prompt_response, name: gsm8k,
       columns: {prompt: question, response: answer}, weight: 2}
    - {path: assets/chat/chat.jsonl, format: messages, weight: 1}
    - {path: assets/openmoji/messages.jsonl, format: messages, name: openmoji, weight: 3}
stage: {seq_len: 1024, packing: best_fit, packing_window: 48, micro_batch_size: 1, global_batch_size: 4, max_steps: 12,
        optimizer: {lr: 1.0e-3}}
logging: {sample_ids: true, trackers: []}
checkpointing: {export: never, every_steps: 1}
"""
WORKERS = {1: 2, 2: 0, 4: 1}


# Eight runs, some of them on four processes.
@pytest.mark.timeout(1800)
def test_a_killed_blend_goes_on_with_the_same_batches_on_any_mesh(tmp_path: Path) -> None:
    link_assets(tmp_path, "gsm8k", "chat", "openmoji")
    (tmp_path / "blend.yaml").write_text(RECIPE)
    words = ("recipe=blend.yaml",)
    run(tmp_path, *words, "run.name=whole", "data.num_workers=1")
    steps = run_until_killed(tmp_path, "killed", 3, *words)
    assert 3 <= steps < 12
    for ranks, workers in WORKERS.items():
        name = f"on_{ranks}"
        shutil.copytree(tmp_path / "runs/killed", tmp_path / "runs" / name)
        run(tmp_path, *words, f"run.name={name}", f"parallelism.dp_shard={ranks}", f"data.num_workers={workers}")
        check_same_batches(tmp_path, ("whole", name), is_bit_equal=ranks == 1)
    two = (*words, "parallelism.dp_shard=2")
    run(tmp_path, *two, "run.name=whole_on_2")
    run_until_killed(tmp_path, "killed_on_2", 3, *two)
    run(tmp_path, *two, "run.name=killed_on_2", "data.num_workers=2")
    check_same_batches(tmp_path, ("whole_on_2", "killed_on_2"), is_bit_equal=True)
    used = json.loads((tmp_path / "runs/whole/ledger.json").read_text())["sources"]
    assert min(counts["samples"] for counts in used.values()) > 5
    assert set(used) == {"gsm8k", "chat", "openmoji"}


@pytest.mark.parametrize("seq_len", [1024, 2048])
@pytest.mark.parametrize("packing", ["best_fit", "knapsack"])
def test_rows_of_real_problems_are_full(
    seq_len: int, packing: Literal["best_fit", "knapsack"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_assets(tmp_path, "smollm2", "gsm8k")
    monkeypatch.chdir(tmp_path)
    stage = StageConfig(seq_len=seq_len, packing=packing, max_steps=1)
    tokenizer = AutoTokenizer.from_pretrained("assets/smollm2-135m-instruct")
    rows = build_train_windows(Config(data=DataConfig(train=(GSM8K,)), stage=stage), tokenizer).make(0).rows
    num_tokens = sum(sample.num_tokens for row in rows for sample in row)
    assert num_tokens / (len(rows) * seq_len) >= 0.97
