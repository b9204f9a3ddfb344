"""Runs on two ranks, started by the command itself: other meshes, signals, errors."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.support.runs import LORA, column, metrics, sample_ids, start

from vlmforge.cli import main

pytestmark = pytest.mark.slow

TWO = ("parallelism.dp_shard=2",)


def wait_for_steps(run: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and len(metrics(run)) >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"{run} has not made {count} steps in two minutes")


UNPACKED = ("stage.packing=none", "~stage.packing_window")


# Whole, and its beginning, its middle on two ranks and its end.
@pytest.mark.parametrize(
    ("recipe", "cuts", "mesh"),
    [
        (UNPACKED, (("stage.max_tokens_per_micro_batch=300",), ("stage.max_tokens_per_micro_batch=512",)), TWO),
        # Weights that are cut along the same dim twice are saved, read and exported.
        ((), ((), ()), (*TWO, "parallelism.tp=2")),
        # Ranks along tp drop the places that one rank would have dropped.
        (LORA, ((), ()), ("parallelism.tp=2",)),
    ],
    ids=["cut by tokens", "dp_shard x tp", "dropout on tp"],
)
def test_a_run_goes_on_with_another_number_of_ranks_and_sees_the_same_samples(
    here: Path, recipe: tuple[str, ...], cuts: tuple[tuple[str, ...], tuple[str, ...]], mesh: tuple[str, ...]
) -> None:
    words = ("train", "recipe=short.yaml", *recipe)
    assert main([*words, "run.name=whole"]) == 0
    assert main([*words, "run.name=moved", "run.stop_after_steps=2", *cuts[0]]) == 0
    two = start(here, *words, "run.name=moved", "run.stop_after_steps=4", *cuts[0], *mesh)
    assert two.wait(180) == 0, two.communicate()
    assert main([*words, "run.name=moved", *cuts[1]]) == 0
    assert sample_ids(here / "runs/moved") == sample_ids(here / "runs/whole")
    moved, whole = (column(here / f"runs/{name}", "loss", "grad_norm") for name in ("moved", "whole"))
    for ours, theirs in zip(moved, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    # Validation is cut in the same way as training.
    validation = [metrics(here / f"runs/{name}")[-1]["validation_loss"] for name in ("moved", "whole")]
    assert validation[0] == pytest.approx(validation[1], rel=2e-5)


EXPERTS = (
    "model.family=qwen3_moe",
    "model.config={vocab_size: 264, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, head_dim: 16, "
    "num_attention_heads: 4, num_key_value_heads: 2, moe_intermediate_size: 48, num_experts: 4, "
    "num_experts_per_tok: 2, eos_token_id: 258, pad_token_id: 256, tie_word_embeddings: false}",
)


def test_a_run_goes_from_experts_on_ranks_to_tp_and_back_and_each_exports_what_one_process_does(here: Path) -> None:
    words = ("train", "recipe=short.yaml", *EXPERTS, "stage.max_steps=3", "checkpointing.export=1")
    # Adam's update is the sign of a gradient: one that is nothing but rounding must not make a whole step.
    words = (*words, "stage.optimizer.eps=1e-6", "stage.schedule.warmup_steps=0")
    meshes = ((*TWO, "parallelism.ep=2"), ("parallelism.tp=2",), (*TWO, "parallelism.ep=2"))
    for step, mesh in enumerate(meshes, start=1):
        two = start(here, *words, "run.name=two", f"run.stop_after_steps={step}", *mesh)
        assert main([*words, "run.name=one", f"run.stop_after_steps={step}"]) == 0
        assert two.wait(180) == 0, two.communicate()
        ours, theirs = (load_file(here / f"runs/{name}/export/model.safetensors") for name in ("two", "one"))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.allclose(ours[name], tensor, rtol=0, atol=1e-5), (step, name)
    losses = [column(here / f"runs/{name}", "loss", "grad_norm") for name in ("two", "one")]
    for pair, other in zip(*losses, strict=True):
        assert pair == pytest.approx(other, rel=2e-5)


def test_a_signal_finishes_the_step_and_saves_on_every_rank(here: Path) -> None:
    words = ("train", "recipe=short.yaml", "run.name=stopped", "stage.max_steps=4000", *TWO)
    running = start(here, *words)
    wait_for_steps(here / "runs/stopped", 3)
    running.send_signal(signal.SIGTERM)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "interrupted after step" in output
    steps = len(metrics(here / "runs/stopped"))
    assert [path.name for path in (here / "runs/stopped/checkpoints").iterdir()] == [f"step-{steps:08d}"]
    assert main([*words[:-1], f"run.stop_after_steps={steps + 1}"]) == 0
    assert [line["step"] for line in metrics(here / "runs/stopped")] == list(range(1, steps + 2))


def test_an_error_on_two_ranks_is_told_once_with_its_code(here: Path) -> None:
    lines = ['{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'] * 60
    lines[40] = '{"messages": [{"role": "user", "content": "nobody answers"}]}'
    (here / "rows.jsonl").write_text("\n".join(lines))
    source = "data.train=[{path: rows.jsonl, format: messages}]"
    running = start(here, "train", "recipe=short.yaml", "run.name=bad", source, "stage.packing_window=4", *TWO)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 3, errors
    assert errors.count("error:") == 1
    assert "rows.jsonl:41" in errors
    assert "Traceback" not in errors


def test_a_rank_that_does_not_go_on_ends_the_run_with_a_report(here: Path) -> None:
    words = ("train", "recipe=short.yaml", "run.name=stuck", "stage.max_steps=4000", "launch.timeout_seconds=6")
    running = start(here, *words, *TWO)
    wait_for_steps(here / "runs/stuck", 2)
    ranks = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(ranks[1]), signal.SIGSTOP)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert errors.count("error:") == 1
    assert "rank 0 has waited for 6 s (launch.timeout_seconds) in step " in errors
    assert "rank 1 gave no answer" in errors
    # Where rank 0 waits for it: within a step, or between two.
    assert re.search(r"    vlmforge/train/(step|loop)\.py:", errors)
    assert "Traceback" not in errors


def test_a_rank_that_is_killed_ends_the_run_with_a_word(here: Path) -> None:
    running = start(here, "train", "recipe=short.yaml", "run.name=killed", "stage.max_steps=4000", *TWO)
    wait_for_steps(here / "runs/killed", 2)
    ranks = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGKILL)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert errors.count("error:") == 1
    assert "rank 1 was ended by SIGKILL" in errors
    # The recipe's rows are single ones already, so what is left is named.
    assert "fix:   if so (`dmesg | grep -i oom`): parallelism.recompute=full" in errors
    assert "stage.seq_len=128" in errors
    assert "stage.micro_batch_size" not in errors
