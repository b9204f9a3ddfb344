"""Short runs of the command in a folder of their own, and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# Everything that a run can trip over: packing across steps, a ragged end, dropout, warm-up, validation.
RECIPE = """\
# A short run over samples with tools, system turns and several answers
model:
  family: qwen2
  init: random
  tokenizer: builtin:bytes
  chat_template: builtin:chatml
  config: {vocab_size: 264, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4,
           num_key_value_heads: 2, max_position_embeddings: 2048, eos_token_id: 258, pad_token_id: 256,
           tie_word_embeddings: true}
parallelism: {dp_shard: 1, param_dtype: float32}
data:
  train: [{path: "builtin:messages", format: messages, rows: [0, 48]}]
  validation: [{path: "builtin:messages", format: messages, name: held_out, rows: [48, 64]}]
  on_too_long: truncate
stage:
  seq_len: 256
  packing: best_fit
  packing_window: 16
  micro_batch_size: 1
  global_batch_size: 4
  max_steps: 6
  optimizer: {lr: 1.0e-3}
  schedule: {name: cosine, warmup_steps: 2}
logging: {sample_ids: true, trackers: []}
"""

LORA = ["stage.kind=lora", "stage.adapter.rank=4", "stage.adapter.dropout=0.2"]


def write_recipe(folder: Path) -> Path:
    path = folder / "short.yaml"
    path.write_text(RECIPE)
    return path


def environment() -> dict[str, str]:
    """Without what torchrun or another test left, so that the command starts its own ranks."""
    hidden = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "VLMFORGE_RENDEZVOUS", "VLMFORGE_ERROR_FILE")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"PYTHONPATH": str(ROOT / "src")}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command as a user starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "vlmforge", *words],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def column(run: Path, *names: str) -> list[tuple[Any, ...]]:
    """What must be equal between two runs, step by step."""
    return [tuple(line.get(name) for name in names) for line in metrics(run)]


def sample_ids(run: Path) -> list[list[str]]:
    return [json.loads(line)["sample_ids"] for line in (run / "batches.jsonl").read_text().splitlines()]
