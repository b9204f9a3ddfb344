"""`vlmforge parity`: what it prints, and when it fails."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.runs import start
from vlmforge.cli import main
from vlmforge.commands.configuring import load_config
from vlmforge.commands.parity_report import report
from vlmforge.commands.request import Request
from vlmforge.config.derived import Axes
from vlmforge.config.pretrained import derive_shape
from vlmforge.config.reduce import reduce_config
from vlmforge.config.scale import TINY_SEQ_LEN
from vlmforge.errors import DataError, Problem
from vlmforge.models import FAMILIES
from vlmforge.train.parity import Record

RECORD = Record([2.0, 1.5], [3.0, 2.5], {"a.weight": torch.ones(4), "b.bias": torch.ones(2)}, torch.ones(3, 5))


@pytest.mark.slow
def test_a_mesh_that_trains_the_same_model_passes(tmp_path: Path) -> None:
    words = ("recipe=qwen2p5_0p5b/gsm8k_sp2", "parallelism.dp_shard=1", "stage.kind=lora", "stage.adapter.rank=8")
    running = start(tmp_path, "parity", *words, "output=kept")
    output, errors = running.communicate(timeout=180)
    assert running.returncode == 0, errors
    # Heads are the full model's, cut as there.
    assert "on cp 2\nreduced to 2 layers, 14 heads, 2 key-value heads, float32" in output
    assert "trained with adapters" in output
    assert "loss, step 5" in output
    assert output.endswith("ok: every difference is what sums in another order explain\n")
    assert (tmp_path / "kept/base/model.safetensors").exists()


@pytest.mark.slow
def test_a_signal_ends_all_of_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    running = start(tmp_path, "parity", "recipe=quickstart", "parallelism.dp_shard=2")
    assert running.stdout is not None
    while "step 1 of 5" not in (line := running.stdout.readline()):
        assert line, running.communicate()[1]
    ranks = [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
    assert len(ranks) == 2
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=20)
    assert (running.returncode, errors) == (130, "interrupted\n")
    assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
    assert list(temporary.iterdir()) == []


def test_heads_that_divide_no_power_of_two_are_kept() -> None:
    words = ("parallelism.tp=3", "model.attention=varlen")
    arguments = {"recipe": ["smollm2/gsm8k_sft"], "check_data": ["false"]}
    loaded = load_config(Request("parity", arguments, words), environ={})
    shape = derive_shape(loaded.config.model, FAMILIES)
    fields = reduce_config(loaded.config, shape, Axes(tp=3), FAMILIES).model.config
    assert (fields["num_attention_heads"], fields["num_key_value_heads"]) == (9, 3)
    # transformers refuses another width for Llama.
    assert fields["hidden_size"] % 9 == 0


def test_samples_fit_a_recipe_of_short_rows() -> None:
    # The samples that take the place of a recipe's are of other lengths, and their tokens are bytes.
    words = ("stage.seq_len=64", "stage.global_batch_size=8", "parallelism.dp_shard=2")
    loaded = load_config(Request("parity", {"recipe": ["smollm2/gsm8k_sft"], "check_data": ["false"]}, words))
    shape = derive_shape(loaded.config.model, FAMILIES)
    reduced = reduce_config(loaded.config, shape, Axes(dp_shard=2), FAMILIES)
    assert reduced.stage.seq_len == TINY_SEQ_LEN


def test_data_that_does_not_fit_is_told_once_with_its_own_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMFORGE_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setattr("vlmforge.commands.parity._run_rank", _refuse)
    assert main(["parity", "recipe=quickstart"]) == 3
    assert json.loads((tmp_path / "error.json").read_text())["exit_code"] == 3
    assert capfd.readouterr().err == ""


def _refuse(request: Request) -> int:
    raise DataError(Problem("a sample that is too long", "rows.jsonl:7", "stage.seq_len=512"))


def test_a_gradient_that_differs_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = replace(RECORD, grads={**RECORD.grads, "b.bias": torch.tensor([1.0, 1.0001])})
    assert report(RECORD, RECORD, RECORD) == 0
    assert report(wrong, RECORD, RECORD) == 1
    assert "gradient of b.bias 7.1e-05 > 1e-05" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (replace(RECORD, losses=[2.0, 1.50001]), "loss 6.7e-06 > 3e-06"),
        (replace(RECORD, losses=[2.0, float("nan")]), "loss nan > 3e-06"),
        (replace(RECORD, grad_norms=[3.0001, 2.5]), "gradient norm 3.3e-05 > 2e-05"),
        (replace(RECORD, logits=torch.full((3, 5), 1.0001)), "logits 1.0e-04 > 1e-05"),
    ],
    ids=["loss", "no number", "norm", "logits"],
)
def test_a_number_that_differs_is_told(wrong: Record, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(wrong, RECORD, RECORD) == 1
    assert said in capsys.readouterr().err


def test_a_mesh_that_the_full_model_refuses_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["parity", "recipe=smollm2/gsm8k_sft", "parallelism.cp=2", "parallelism.dp_shard=1"]
    assert main(words) == 2
    assert "parallelism.cp = 2 must divide model num_attention_heads = 9" in capsys.readouterr().err


def test_torchrun_is_told_that_ranks_start_by_themselves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["parity", "recipe=quickstart"]) == 2
    assert "starts its ranks on this machine itself" in capsys.readouterr().err


def test_a_recipe_on_a_blend_is_compared_on_samples_that_are_built_in() -> None:
    request = Request("parity", {"recipe": ["nemotron_nano_vl_8b/sft"], "check_data": ["false"]}, ("parallelism.tp=2",))
    loaded = load_config(request, environ={})
    shape = derive_shape(loaded.config.model, FAMILIES)
    reduced = reduce_config(loaded.config, shape, Axes(tp=2), FAMILIES)
    assert [source.path for source in reduced.data.train] == [("builtin:image_messages",)]
