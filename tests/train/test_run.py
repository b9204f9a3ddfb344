"""A run as its user sees it: stop, resume, finish, and everything that it leaves on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.support.runs import LORA, column, metrics, sample_ids
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlmforge.cli import main
from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.parallel.mesh import open_world
from vlmforge.train.session import build_root

EXACT = ("step", "loss", "grad_norm", "lr", "num_tokens", "num_label_tokens", "validation_loss")


def train(*words: str) -> int:
    return main(["train", "recipe=short.yaml", *words])


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(kind: str, here: Path) -> None:
    words = LORA if kind == "lora" else []
    assert train("run.name=whole", *words) == 0
    assert train("run.name=parts", "run.stop_after_steps=2", *words) == 0
    assert not (here / "runs/parts/export").exists()
    assert train("run.name=parts", "run.stop_after_steps=5", *words) == 0
    assert train("run.name=parts", *words) == 0

    assert column(here / "runs/parts", *EXACT) == column(here / "runs/whole", *EXACT)
    assert sample_ids(here / "runs/parts") == sample_ids(here / "runs/whole")
    name = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    whole, parts = (here / f"runs/{run}/export" / name for run in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    ledgers = [json.loads((here / f"runs/{run}/ledger.json").read_text()) for run in ("whole", "parts")]
    assert ledgers[0] == ledgers[1]


def test_a_run_leaves_every_file_of_the_contract(here: Path) -> None:
    assert train("run.name=one", "checkpointing.every_steps=2", "checkpointing.keep_last=2") == 0
    run = here / "runs/one"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    lines = metrics(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0]["lr"] == 0
    assert lines[-1]["validation_loss"] < 6
    assert all(0 < line["mfu_ratio"] < 1 for line in lines)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["completed_steps"] == 6
    assert manifest["mesh"] == dict.fromkeys(("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep"), 1)
    assert set(manifest["versions"]) >= {"torch", "transformers", "vlmforge"}
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "scores.json").read_text())["after"]["validation_loss"] == lines[-1]["validation_loss"]
    used = json.loads((run / "ledger.json").read_text())["sources"]
    assert used["messages"]["tokens"] == sum(line["num_tokens"] for line in lines)


def test_the_recipe_of_a_run_makes_the_same_run_again(here: Path) -> None:
    assert train("run.name=first") == 0
    assert main(["train", "recipe=runs/first/recipe.yaml", "run.name=second"]) == 0
    assert column(here / "runs/first", *EXACT) == column(here / "runs/second", *EXACT)


def test_a_finished_run_is_not_trained_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run.name=done", "stage.max_steps=3") == 0
    before = (here / "runs/done/metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert train("run.name=done", "stage.max_steps=3") == 0
    assert "already complete" in capsys.readouterr().out
    assert (here / "runs/done/metrics.jsonl").read_bytes() == before


def test_a_finished_run_goes_on_to_more_steps(here: Path) -> None:
    words = ("stage.schedule.name=constant", "stage.schedule.warmup_steps=0")
    assert train("run.name=more", "stage.max_steps=2", *words) == 0
    assert train("run.name=more", "stage.max_steps=4", *words) == 0
    assert train("run.name=at_once", "stage.max_steps=4", *words) == 0
    more, at_once = (column(here / f"runs/{name}", "step", "loss", "grad_norm") for name in ("more", "at_once"))
    assert more == at_once


def test_a_folder_of_another_recipe_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run.name=taken", "stage.max_steps=3") == 0
    capsys.readouterr()
    assert train("run.name=taken", "stage.max_steps=3", "stage.optimizer.lr=5e-4", "data.seed=3") == 4
    report = capsys.readouterr().err
    assert "stage.optimizer.lr is 0.001 there and 0.0005 here" in report
    assert "data.seed is 0 there and 3 here" in report
    assert "run.name=taken-2" in report


def test_a_folder_is_not_overwritten_when_resume_is_never(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run.name=kept", "stage.max_steps=3") == 0
    assert train("run.name=kept", "stage.max_steps=3", "checkpointing.resume=never") == 4
    assert "holds a run already" in capsys.readouterr().err


def test_a_step_of_another_run_is_not_mixed_into_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run.name=one", "run.stop_after_steps=2") == 0
    assert train("run.name=two", "run.stop_after_steps=3") == 0
    step = "checkpointing.resume=runs/one/checkpoints/step-00000002"
    before = (here / "runs/two/metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert train("run.name=two", step) == 4
    assert "belongs to another run" in capsys.readouterr().err
    assert (here / "runs/two/metrics.jsonl").read_bytes() == before
    assert train("run.name=three", step, "stage.optimizer.lr=0.5") == 4
    assert "stage.optimizer.lr is 0.001 there and 0.5 here" in capsys.readouterr().err
    assert train("run.name=three", step) == 0
    assert [line["step"] for line in metrics(here / "runs/three")] == [3, 4, 5, 6]


def test_going_back_to_an_earlier_step_makes_the_later_ones_again(here: Path) -> None:
    words = ("run.name=back", "checkpointing.every_steps=2", "checkpointing.keep_last=9")
    assert train(*words) == 0
    first = column(here / "runs/back", *EXACT)
    assert train(*words, "checkpointing.resume=runs/back/checkpoints/step-00000002", "run.stop_after_steps=3") == 0
    names = sorted(path.name for path in (here / "runs/back/checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000003"]
    assert train(*words) == 0
    assert column(here / "runs/back", *EXACT) == first


def test_fewer_steps_than_were_made_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run.name=long", "run.stop_after_steps=4") == 0
    capsys.readouterr()
    assert train("run.name=long", "stage.max_steps=3") == 4
    assert "has made 4 steps, more than the 3" in capsys.readouterr().err
    assert train("run.name=long", "stage.max_steps=4") == 0
    scores = json.loads((here / "runs/long/scores.json").read_text())
    assert scores["after"]["validation_loss"] > 0
    assert (here / "runs/long/export/model.safetensors").exists()


def test_a_manifest_that_cannot_be_read_does_not_start_a_new_run(here: Path) -> None:
    assert train("run.name=torn", "run.stop_after_steps=2") == 0
    (here / "runs/torn/manifest.json").write_text("{")
    assert train("run.name=torn") == 4
    assert (here / "runs/torn/checkpoints/step-00000002/state.json").exists()


def test_workers_change_nothing_also_over_a_stop(here: Path) -> None:
    assert train("run.name=whole") == 0
    assert train("run.name=parts", "run.stop_after_steps=3", "data.num_workers=2") == 0
    assert train("run.name=parts", "data.num_workers=1") == 0
    assert column(here / "runs/parts", *EXACT) == column(here / "runs/whole", *EXACT)


def test_a_half_written_checkpoint_is_not_resumed_from(here: Path) -> None:
    assert train("run.name=crashed", "run.stop_after_steps=2") == 0
    partial = here / "runs/crashed/checkpoints/.step-00000004.partial"
    partial.mkdir()
    (partial / "state.json").write_text("{}")
    assert train("run.name=crashed") == 0
    assert [line["step"] for line in metrics(here / "runs/crashed")] == [1, 2, 3, 4, 5, 6]
    assert not partial.exists()


def test_a_damaged_checkpoint_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run.name=damaged", "run.stop_after_steps=2") == 0
    (shard,) = (here / "runs/damaged/checkpoints/step-00000002").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    capsys.readouterr()
    assert train("run.name=damaged") == 4
    assert shard.name in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_with_step_and_samples(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("stage.optimizer.lr=1e30", "stage.schedule.warmup_steps=0", "checkpointing.every_steps=1")
    assert train("run.name=diverged", *words, "stage.optimizer.max_grad_norm=null") == 1
    report = capsys.readouterr().err
    assert "step 2: loss = " in report
    assert "samples messages#" in report
    assert "stage.optimizer.lr" in report
    assert [line["step"] for line in metrics(here / "runs/diverged")] == [1]
    assert (here / "runs/diverged/checkpoints/step-00000001/state.json").exists()


def test_the_exported_model_gives_the_same_loss_in_plain_transformers(here: Path) -> None:
    assert train("run.name=full", "stage.max_steps=3") == 0
    model = AutoModelForCausalLM.from_pretrained(here / "runs/full/export", dtype=torch.float32)
    assert plain_validation_loss(model, here / "runs/full/export") == pytest.approx(
        metrics(here / "runs/full")[-1]["validation_loss"], rel=1e-5
    )


def test_the_exported_adapter_gives_the_same_loss_in_plain_peft(here: Path) -> None:
    from peft import PeftModel

    assert train("run.name=lora", "stage.max_steps=4", "checkpointing.export_merged=true", *LORA) == 0
    export = here / "runs/lora/export"
    base = json.loads((export / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(export))
    expected = metrics(here / "runs/lora")[-1]["validation_loss"]
    assert plain_validation_loss(model, export) == pytest.approx(expected, rel=1e-5)
    by_peft = model.merge_and_unload().state_dict()
    merged = AutoModelForCausalLM.from_pretrained(here / "runs/lora/merged", dtype=torch.float32)
    assert plain_validation_loss(merged, here / "runs/lora/merged") == pytest.approx(expected, rel=1e-5)
    assert by_peft.keys() == merged.state_dict().keys()
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(weight, by_peft[name], rtol=1e-6, atol=1e-7)


def plain_validation_loss(model: torch.nn.Module, folder: Path) -> float:
    """Mean over the answers' tokens of the held-out samples, by transformers' own logits."""
    from vlmforge.data.window import build_validation_windows

    config = load_config(Request("train", {"recipe": ["short.yaml"]})).config
    model.eval()
    total, count = 0.0, 0
    for window in build_validation_windows(config, AutoTokenizer.from_pretrained(folder)).make_all():
        for sample in (sample for row in window.rows for sample in row):
            ids, is_label = torch.from_numpy(sample.input_ids).long(), torch.from_numpy(sample.is_label)[1:]
            with torch.no_grad():
                logits = model(input_ids=ids[None]).logits[0, :-1][is_label]
            total += torch.nn.functional.cross_entropy(logits, ids[1:][is_label], reduction="sum").item()
            count += int(is_label.sum())
    return total / count


def test_an_adapter_is_continued_from_its_folder(here: Path) -> None:
    assert train("run.name=one", "stage.max_steps=4", *LORA, "stage.adapter.dropout=0.0") == 0
    base, export = here / "runs/one/base_model", here / "runs/one/export"
    words = [
        f"model.pretrained={base}",
        "model.init=pretrained",
        f"stage.adapter.path={export}",
        "evaluate.before=true",
    ]
    assert train("run.name=two", "stage.max_steps=3", *LORA, *words) == 0
    before = json.loads((here / "runs/two/scores.json").read_text())["before"]["validation_loss"]
    assert before == pytest.approx(metrics(here / "runs/one")[-1]["validation_loss"], rel=1e-6)
    assert train("run.name=three", *LORA, *words, "stage.adapter.rank=8") == 4


def test_recompute_changes_nothing_at_all(here: Path) -> None:
    for mode in ("none", "full", "selective"):
        assert train(f"run.name={mode}", "stage.max_steps=3", f"parallelism.recompute={mode}") == 0
    runs = [column(here / f"runs/{mode}", "loss", "grad_norm") for mode in ("none", "full", "selective")]
    assert runs[0] == runs[1] == runs[2]


def test_bfloat16_stays_near_float32(here: Path) -> None:
    modes = {
        "fp32": ["parallelism.param_dtype=float32"],
        "masters": ["parallelism.param_dtype=bfloat16"],
        "bf16": ["parallelism.param_dtype=bfloat16", "model.dtype=bfloat16"],
    }
    for name, words in modes.items():
        assert train(f"run.name={name}", *words) == 0
    losses = {name: [line["loss"] for line in metrics(here / f"runs/{name}")] for name in modes}
    assert losses["masters"] == pytest.approx(losses["fp32"], rel=1e-2)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=3e-2)
    assert len({tuple(values) for values in losses.values()}) == 3


def test_frozen_weights_stay_in_the_type_of_their_files_and_train_the_same(here: Path) -> None:
    assert train("run.name=first", "stage.max_steps=3", "model.dtype=bfloat16", "parallelism.param_dtype=bfloat16") == 0
    narrow, wide = here / "runs/first/export", here / "wide"
    shutil.copytree(narrow, wide)
    AutoModelForCausalLM.from_pretrained(narrow).float().save_pretrained(wide)
    words = [*LORA, "model.init=pretrained", "parallelism.param_dtype=bfloat16", "checkpointing.export_merged=true"]
    types = {}
    for base in (narrow, wide):
        own = [*words, f"model.pretrained={base}"]
        loaded = load_config(Request("train", {"recipe": ["short.yaml"]}, own))
        with open_world(loaded.batch.axes, "cpu", 60.0) as world:
            named = dict(build_root(loaded.config, world).model.named_parameters())
        types[base] = {parameter.dtype for parameter in named.values() if not parameter.requires_grad}
        assert {parameter.dtype for parameter in named.values() if parameter.requires_grad} == {torch.float32}
        assert train(f"run.name={base.name}", "run.stop_after_steps=3", *own) == 0
        assert train(f"run.name={base.name}", *own) == 0
    assert types == {narrow: {torch.bfloat16}, wide: {torch.float32}}
    assert column(here / "runs/export", *EXACT) == column(here / "runs/wide", *EXACT)
    for file in ("export/adapter_model.safetensors", "merged/model.safetensors"):
        assert (here / "runs/export" / file).read_bytes() == (here / "runs/wide" / file).read_bytes()
