"""A blend of real rows, killed at a step that nobody chose, and gone on with on 1, 2 and 4 processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest
from tests.support.assets import link_assets
from tests.support.blends import check_same_batches, run, run_until_killed
from tests.support.seeing import SEEING_MODEL
from transformers import AutoTokenizer

from vlmforge.config.schema import Config, DataConfig, SourceConfig, StageConfig
from vlmforge.data.window import build_train_windows

pytestmark = pytest.mark.real

GSM8K = SourceConfig(
    path=("assets/gsm8k/test.jsonl",),
    format="prompt_response",
    columns={"prompt": "question", "response": "answer"},
)
RECIPE = f"""\
# GSM8K, conversations of two people, and pictures with what they show
{SEEING_MODEL}parallelism: {{dp_shard: 1, param_dtype: float32}}
data:
  on_too_long: drop
  train:
    - {{path: assets/gsm8k/test.jsonl, format: prompt_response, name: gsm8k,
       columns: {{prompt: question, response: answer}}, weight: 2}}
    - {{path: assets/chat/chat.jsonl, format: messages, weight: 1}}
    - {{path: assets/openmoji/messages.jsonl, format: messages, name: openmoji, weight: 3}}
stage: {{seq_len: 1024, packing: best_fit, packing_window: 24, micro_batch_size: 1, global_batch_size: 4, max_steps: 8,
        optimizer: {{lr: 1.0e-3}}}}
logging: {{sample_ids: true, trackers: []}}
checkpointing: {{export: never, every_steps: 1}}
"""
NUM_STEPS = 8
# Of each source in a window, as the weights say.
SHARES = {"gsm8k": 8, "chat": 4, "openmoji": 12}
WORKERS = {1: 2, 2: 0, 4: 1}


# Five runs, one of them on four processes.
@pytest.mark.timeout(900)
def test_a_killed_blend_goes_on_with_the_same_batches_on_any_mesh(tmp_path: Path) -> None:
    link_assets(tmp_path, "gsm8k", "chat", "openmoji")
    (tmp_path / "blend.yaml").write_text(RECIPE)
    words = ("recipe=blend.yaml",)
    run(tmp_path, *words, "run.name=whole", "data.num_workers=1")
    steps = run_until_killed(tmp_path, "killed", 3, *words)
    assert 3 <= steps < NUM_STEPS
    for ranks, workers in WORKERS.items():
        name = f"on_{ranks}"
        shutil.copytree(tmp_path / "runs/killed", tmp_path / "runs" / name)
        run(tmp_path, *words, f"run.name={name}", f"parallelism.dp_shard={ranks}", f"data.num_workers={workers}")
        check_same_batches(tmp_path, ("whole", name), is_bit_equal=ranks == 1)
    check_shares(tmp_path / "runs/whole")


def check_shares(run: Path) -> None:
    """Of every window that is used up each source has had its share, and of the next at most that."""
    state = json.loads((run / f"checkpoints/step-{NUM_STEPS:08d}/state.json").read_text())
    full = state["data"]["position"]["window"]
    assert full >= 2, "a run over too few windows shows nothing"
    sources = json.loads((run / "ledger.json").read_text())["sources"]
    assert set(sources) == set(SHARES)
    for name, share in SHARES.items():
        drawn = sources[name]["samples"] + sources[name]["dropped"]
        assert full * share <= drawn <= (full + 1) * share, name


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
