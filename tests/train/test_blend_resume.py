"""Three sources, packed, stopped at a step and gone on with; on other numbers of ranks: tests/real/test_blend.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.blends import check_same_batches

from vlmforge.cli import main

pytestmark = pytest.mark.slow

BLEND = """\
# Three sources: one by itself, and two in a blend of their own that ends
defaults: [/model: tiny_llama, /parallelism: single, _self_]
data:
  weight_unit: tokens
  train:
    - {path: "builtin:messages", format: messages, weight: 2}
    - weight: 1
      weight_unit: epochs
      sources:
        - {path: "builtin:dates", format: prompt_response, rows: [0, 30], weight: 1, max_epochs: 2}
        - {path: "builtin:text", format: text, rows: [0, 20], weight: 2}
parallelism: {param_dtype: float32}
stage: {labels: all, seq_len: 256, packing: best_fit, packing_window: 24, micro_batch_size: 1, global_batch_size: 4,
        max_steps: 8, optimizer: {lr: 1.0e-3}}
logging: {sample_ids: true, trackers: []}
checkpointing: {export: never}
"""


def train(*words: str) -> int:
    return main(["train", "recipe=blend.yaml", *words])


def test_a_blend_goes_on_bit_equal_on_the_same_mesh_with_other_workers(here: Path) -> None:
    (here / "blend.yaml").write_text(BLEND)
    assert train("run.name=whole") == 0
    assert train("run.name=parts", "run.stop_after_steps=3", "data.num_workers=2") == 0
    assert train("run.name=parts", "data.num_workers=1") == 0
    check_same_batches(here, ("whole", "parts"), is_bit_equal=True)
    ledgers = [json.loads((here / f"runs/{name}/ledger.json").read_text()) for name in ("whole", "parts")]
    assert ledgers[0] == ledgers[1]
    assert set(ledgers[0]["sources"]) == {"messages", "dates", "text"}


def test_a_run_that_goes_on_keeps_the_lengths_that_it_began_with(here: Path) -> None:
    (here / "blend.yaml").write_text(BLEND)
    assert train("run.name=a", "run.stop_after_steps=1") == 0
    path = here / "runs/a/manifest.json"
    manifest = json.loads(path.read_text())
    assert set(manifest["lengths"]) == {"messages", "dates", "text"}
    # As if they had been measured otherwise: longer messages give fewer of them.
    manifest["lengths"]["messages"][0] *= 8
    path.write_text(json.dumps(manifest))
    assert train("run.name=a", "run.stop_after_steps=2") == 0
    assert json.loads(path.read_text())["lengths"] == manifest["lengths"]
