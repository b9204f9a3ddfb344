"""SmolLM2-135M-Instruct and GSM8K as they are: labels, two steps of training, export, an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.support.assets import link_assets
from tests.support.runs import metrics, start
from transformers import AutoModelForCausalLM

from vlmforge.cli import main

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the assets in it; fetched unless the checkout has them."""
    folder = tmp_path_factory.mktemp("real")
    link_assets(folder, "smollm2", "gsm8k")
    return folder


@pytest.fixture(autouse=True)
def inside(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


MODEL = "model.pretrained=assets/smollm2-135m-instruct"
SHORT = [
    "stage.max_steps=2",
    "stage.max_epochs=null",
    "stage.seq_len=512",
    "stage.micro_batch_size=2",
    "stage.global_batch_size=2",
    "stage.schedule={name: constant}",
    "evaluate.tasks=[]",
    "evaluate.limit=null",
    "evaluate.before=false",
    "data.validation=[]",
]


def test_the_labels_of_a_problem_are_its_answer_and_the_end_marker() -> None:
    from vlmforge.commands.configuring import load_config
    from vlmforge.commands.request import Request
    from vlmforge.data.loader import build_train_loader
    from vlmforge.models.tokenizer import build_tokenizer

    words = [MODEL, "data.shuffle=false", "stage.packing=none", "stage.micro_batch_size=1", "stage.global_batch_size=1"]
    config = load_config(Request("preview", {"recipe": ["smollm2/gsm8k_sft"]}, words)).config
    tokenizer = build_tokenizer(config.model)
    (batch,) = next(iter(build_train_loader(config, tokenizer, 0, 1, 1))).micro_batches
    row = json.loads(Path("assets/gsm8k/test.jsonl").read_text().splitlines()[0])
    labels = batch.labels[0]
    assert tokenizer.decode(labels[labels >= 0]) == row["answer"] + "<|im_end|>"
    assert row["question"] in tokenizer.decode(batch.input_ids[0])


@pytest.mark.parametrize("kind", ["sft", "lora"])
def test_two_steps_lower_the_loss_and_the_export_is_the_trained_model(kind: str, here: Path) -> None:
    from vlmforge.commands.configuring import load_settings
    from vlmforge.commands.request import Request
    from vlmforge.generate.find import find_checkpoint
    from vlmforge.generate.load import load_checkpoint

    extra = ["stage.optimizer.lr=1e-4", "data.train.0.rows=[0,4]", "stage.packing_window=4"]
    assert main(["train", f"recipe=smollm2/gsm8k_{kind}", MODEL, *SHORT, *extra, f"run.name={kind}"]) == 0
    run = here / "runs" / kind
    first, second = metrics(run)
    assert 1.0 < first["loss"] < 2.0
    assert second["loss"] < first["loss"]

    recipe = str(run / "recipe.yaml")
    config = load_settings(Request("generate", {}, ["parallelism.param_dtype=float32"]), recipe)
    step = find_checkpoint(str(run / "checkpoints/step-00000002"))
    trained = load_checkpoint(step, config, torch.device("cpu")).model
    plain = AutoModelForCausalLM.from_pretrained(
        run / "export" if kind == "sft" else "assets/smollm2-135m-instruct", dtype=torch.float32
    )
    if kind == "lora":
        from peft import PeftModel

        plain = PeftModel.from_pretrained(plain, str(run / "export"))
    ids = torch.arange(100, 150)[None]
    with torch.no_grad():
        assert torch.equal(trained(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_two_ranks_give_the_losses_of_one(here: Path) -> None:
    rows = ["data.shuffle=false", "data.train.0.rows=[0,4]", "stage.packing=none", "~stage.packing_window"]
    more = ["stage.micro_batch_size=1", "parallelism.param_dtype=float32", "parallelism.recompute=none"]
    words = ["train", "recipe=smollm2/gsm8k_sft", MODEL, *SHORT, *rows, *more, "checkpointing.export=never"]
    assert main([*words, "run.name=one"]) == 0
    two = start(here, *words, "run.name=two", "parallelism.dp_shard=2")
    assert two.wait(300) == 0, two.communicate()
    for ours, theirs in zip(metrics(here / "runs/two"), metrics(here / "runs/one"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=3e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=2e-5)


def test_it_knows_the_capital_of_france(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["checkpoint=assets/smollm2-135m-instruct", "prompt=What is the capital of France?"]
    assert main(["generate", *words, "stage.generation.max_new_tokens=16"]) == 0
    assert "Paris" in capsys.readouterr().out
