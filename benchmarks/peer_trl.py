"""One short SFT run of TRL, in a process of its own, for the benchmarks beside it: same rows, model and update rule.

Rows have `question` and `answer`, and a picture each if they have `image`. It adds a line of JSON to
`steps.jsonl` after every step and saves the model beside it at the end. Nothing of vlmforge is imported.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image, Sequence
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer


class CountingTrainer(SFTTrainer):
    """Counts the real tokens of every micro-batch."""

    num_tokens = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's own, after counting what is not padding."""
        mask = inputs.get("attention_mask")
        self.num_tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())
        return super().training_step(model, inputs, *args, **kwargs)


class Reporter(TrainerCallback):
    """Writes down the tokens of each step and the peak memory up to there."""

    trainer: CountingTrainer | None = None

    def __init__(self, report: Path) -> None:
        """Into this file, a line of JSON a step."""
        self.report = report

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Report one step."""
        assert self.trainer is not None
        line = {"num_tokens": self.trainer.num_tokens, "peak_memory_gib": peak_gib()}
        with self.report.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.trainer.num_tokens = 0


def peak_gib() -> float:
    """Peak resident memory of this process, in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def build_dataset(rows: list[dict[str, Any]]) -> Dataset:
    """TRL's columns."""
    columns: dict[str, list[Any]] = {
        "prompt": [[{"role": "user", "content": row["question"]}] for row in rows],
        "completion": [[{"role": "assistant", "content": row["answer"]}] for row in rows],
    }
    if "image" not in rows[0]:
        return Dataset.from_dict(columns)
    dataset = Dataset.from_dict(columns | {"images": [[row["image"]] for row in rows]})
    return dataset.cast_column("images", Sequence(Image()))


def main() -> None:
    """Train as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True, help="jsonl of question and answer")
    parser.add_argument("--num-rows", type=int, required=True)
    parser.add_argument("--kind", choices=("full", "lora"), required=True)
    parser.add_argument("--masters", choices=("float32", "bfloat16"), required=True)
    parser.add_argument("--packing", type=int, choices=(0, 1), default=1)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--micro-batch-size", type=int, default=1)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--output", required=True)
    given = parser.parse_args()

    rows = [json.loads(line) for line in Path(given.rows).read_text().splitlines()[: given.num_rows]]
    has_pictures = "image" in rows[0]
    settings = SFTConfig(
        output_dir=given.output,
        # What TRL asks for with pictures: a row that is cut may lose half of one.
        max_length=None if has_pictures else given.seq_len,
        packing=bool(given.packing) and not has_pictures,
        per_device_train_batch_size=given.micro_batch_size,
        gradient_accumulation_steps=given.accumulation,
        max_steps=given.steps,
        learning_rate=given.lr,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.01,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        # Mixed precision over float32 weights, or weights that are bfloat16 themselves.
        bf16=given.masters == "float32",
        gradient_checkpointing=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
    )
    output = Path(given.output)
    output.mkdir(parents=True, exist_ok=True)
    reporter = Reporter(output / "steps.jsonl")
    trainer = CountingTrainer(
        model=(AutoModelForImageTextToText if has_pictures else AutoModelForCausalLM).from_pretrained(
            given.model, dtype=getattr(torch, given.masters)
        ),
        args=settings,
        train_dataset=build_dataset(rows),
        processing_class=(AutoProcessor if has_pictures else AutoTokenizer).from_pretrained(given.model),
        callbacks=[reporter],
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        if given.kind == "lora"
        else None,
    )
    reporter.trainer = trainer
    trainer.train()
    trainer.save_model(given.output)


if __name__ == "__main__":
    main()
