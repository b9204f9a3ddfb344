"""Tokens per second, memory and loss of vlmforge and of TRL on the same rows, in turn in this run.

    python scripts/fetch_assets.py
    pip install -e '.[benchmark]'
    python benchmarks/sft_throughput.py

SmolLM2-135M learns 64 GSM8K problems, packed into rows of 1,024 tokens, two rows a step, for five steps: in full and
with LoRA (rank 16, all linear layers), over bfloat16 masters and over float32 masters, computing in bfloat16. Each run
is a process of its own; vlmforge's is the command `vlmforge train`. A speed is the median of all steps but the first.
With `--rounds 2` both run twice, in turn, for machines that are not always as fast; memory is then the larger peak. The
limit is the fastest of the products made before and after. The held-out loss is that of the exported folders, by
plain transformers in float32, on problems that neither has seen. Nothing else should run on the machine.
`--search` tries settings of TRL, three steps each, instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlmforge.observe.speed import measure_matmul_flops

HERE = Path(__file__).parent
MODEL = "assets/smollm2-135m-instruct"
ROWS = "assets/gsm8k/test.jsonl"
NUM_ROWS, NUM_STEPS = 64, 5
HELD_OUT = slice(1000, 1032)
LR = {"full": 5e-5, "lora": 1e-4}
# vlmforge's way to hold what TRL holds: gradients of bfloat16 weights are bfloat16 there.
MASTERS = {
    "bfloat16": ["model.dtype=bfloat16", "parallelism.reduce_dtype=bfloat16"],
    "float32": ["model.dtype=float32"],
}
# Packed or not, tokens of a row, rows of a micro-batch, micro-batches of a step: about as many tokens in each.
SEARCH = ((1, 512, 1, 4), (1, 1024, 1, 2), (1, 1024, 2, 1), (1, 2048, 1, 1), (0, 1024, 4, 2), (0, 1024, 8, 1))


@dataclass(frozen=True)
class Result:
    """What one system gave: tokens a second of each step but the first ones, peak memory in GiB, held-out loss."""

    speeds: tuple[float, ...]
    peak_gib: float
    loss: float

    @property
    def tokens_per_second(self) -> float:
        """The median of the steps."""
        return median(self.speeds)


def gather(rounds: Sequence[Result]) -> Result:
    """Of all rounds of one system."""
    every = tuple(value for result in rounds for value in result.speeds)
    return Result(every, max(result.peak_gib for result in rounds), rounds[-1].loss)


def run_vlmforge(kind: str, masters: str, folder: Path) -> Result:
    """`vlmforge train` on the benchmark's recipe."""
    words = [f"recipe={HERE / 'sft_throughput.yaml'}", f"run.output_dir={folder}", "run.name=run", *MASTERS[masters]]
    words += ["stage=lora"] if kind == "lora" else []
    words += [f"stage.optimizer.lr={LR[kind]}", f"stage.max_steps={NUM_STEPS}", "logging.trackers=[]"]
    subprocess.run([sys.executable, "-m", "vlmforge", "train", *words], check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["num_tokens"], line["step_time_seconds"]) for line in lines]
    return Result(speeds(steps), lines[-1]["peak_memory_gib"], held_out_loss(folder / "run" / "export", kind))


def run_trl(kind: str, masters: str, folder: Path, *settings: str, num_steps: int = NUM_STEPS) -> Result:
    """TRL's SFTTrainer on the same rows."""
    words = ["--model", MODEL, "--rows", ROWS, "--num-rows", str(NUM_ROWS), "--kind", kind, "--masters", masters]
    words += ["--steps", str(num_steps), "--lr", str(LR[kind]), "--output", str(folder), *settings]
    command = [sys.executable, str(HERE / "peer_trl.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"TRL failed:\n{done.stderr[-3000:]}")
    lines = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("STEP ")]
    steps = [(line["num_tokens"], line["seconds"]) for line in lines]
    loss = held_out_loss(folder, kind) if num_steps == NUM_STEPS else float("nan")
    return Result(speeds(steps), lines[-1]["peak_gib"], loss)


def speeds(steps: list[tuple[int, float]]) -> tuple[float, ...]:
    """Real tokens a second of all steps but the first."""
    return tuple(tokens / seconds for tokens, seconds in steps[1:])


def held_out_loss(folder: Path | str, kind: str) -> float:
    """Mean token loss of the answers to held-out problems, by plain transformers and peft in float32."""
    tokenizer: Any = AutoTokenizer.from_pretrained(MODEL)
    model: Any = AutoModelForCausalLM.from_pretrained(MODEL if kind == "lora" else folder, dtype=torch.float32)
    if kind == "lora":
        model = PeftModel.from_pretrained(model, str(folder))
    total, count = 0.0, 0
    for row in [json.loads(line) for line in Path(ROWS).read_text().splitlines()[HELD_OUT]]:
        messages = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
        ids = torch.tensor(tokenizer(whole, add_special_tokens=False)["input_ids"])
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logits = model(ids[None], use_cache=False).logits[0]
        total += F.cross_entropy(logits[start - 1 : -1], ids[start:], reduction="sum").item()
        count += len(ids) - start
    return total / count


def count_flops(kind: str) -> int:
    """Floating-point operations a token: 6 per weight where weights are trained, 4 where adapters are."""
    shapes: Any = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    return (6 if kind == "full" else 4) * sum(parameter.numel() for parameter in shapes.parameters())


def compare(kinds: list[str], masters: list[str], num_rounds: int, console: Console) -> None:
    """Print the table of both systems."""
    table = Table(title="SmolLM2-135M, 64 GSM8K problems packed to 1,024 tokens, bfloat16 compute")
    for column in ("training", "masters", "system", "tokens/s", "of the limit", "peak GiB", "held-out loss"):
        table.add_column(column, justify="left" if column in ("training", "masters", "system") else "right")
    console.print(f"held-out loss before: {held_out_loss(MODEL, 'full'):.4f}")
    for kind in kinds:
        flops = count_flops(kind)
        for dtype in masters:
            before = measure_matmul_flops(torch.device("cpu"), torch.bfloat16)
            rounds: list[tuple[Result, Result]] = []
            for _ in range(num_rounds):
                with tempfile.TemporaryDirectory() as ours_folder, tempfile.TemporaryDirectory() as trl_folder:
                    pair = run_vlmforge(kind, dtype, Path(ours_folder)), run_trl(kind, dtype, Path(trl_folder))
                    rounds.append(pair)
            ours, trl = (gather(results) for results in zip(*rounds, strict=True))
            limit = max(before, measure_matmul_flops(torch.device("cpu"), torch.bfloat16))
            for system, result in (("vlmforge", ours), ("TRL", trl)):
                fraction = result.tokens_per_second * flops / limit
                table.add_row(
                    *(kind, dtype, system, f"{result.tokens_per_second:.0f}", f"{fraction:.2f}"),
                    *(f"{result.peak_gib:.2f}", f"{result.loss:.4f}"),
                )
            console.print(
                f"{kind}, {dtype} masters: {ours.tokens_per_second / trl.tokens_per_second:.2f} times TRL's tokens/s, "
                f"{ours.peak_gib / trl.peak_gib:.2f} of its memory; limit {limit / 1e9:.0f} GFLOP/s; {ours}, {trl}",
                soft_wrap=True,
            )
    console.print(table)


def search(console: Console) -> None:
    """Print TRL's speed under several settings, in full training over bfloat16 masters."""
    for packing, seq_len, rows, accumulation in SEARCH:
        words = ("--packing", packing, "--seq-len", seq_len, "--micro-batch-size", rows, "--accumulation", accumulation)
        with tempfile.TemporaryDirectory() as folder:
            result = run_trl("full", "bfloat16", Path(folder), *map(str, words), num_steps=3)
        console.print(
            f"TRL {'packed' if packing else 'padded'}, {seq_len} tokens, {rows} rows x {accumulation}: "
            f"{result.tokens_per_second:.0f} tokens/s, {result.peak_gib:.2f} GiB"
        )


def main() -> None:
    """Compare, or search TRL's best setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--masters", nargs="+", choices=tuple(MASTERS), default=list(MASTERS))
    parser.add_argument("--rounds", type=int, default=1, help="how often both run, in turn")
    parser.add_argument("--search", action="store_true", help="try settings of TRL instead")
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    console = Console()
    if given.search:
        search(console)
    else:
        compare(given.kinds, given.masters, given.rounds, console)


if __name__ == "__main__":
    main()
