"""Tokens per second, memory and loss of vlmforge and of TRL on the same rows, a step of each in turn.

    python scripts/fetch_assets.py
    pip install -e '.[benchmark]'
    python benchmarks/sft_throughput.py

SmolLM2-135M learns 100 GSM8K problems, packed into rows of 1,024 tokens, two rows a step, for eight steps: in full and
with LoRA (rank 16, all linear layers), over bfloat16 masters and over float32 masters, computing in bfloat16. Each
system is a process of its own, vlmforge's is the command `vlmforge train`, and one of the two runs at a time: a step of
this, then a step of that, while the other stands still. A speed is the median of all steps but the first, and the ratio
that of the turns' ratios. The limit is the fastest of the products made before and after. The held-out loss is that of
the exported folders, by plain transformers in float32, on problems that neither has seen. Nothing else should run on
the machine. `--search` tries settings of TRL, three steps each, instead.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
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

from turns import System, time_in_turns
from vlmforge.observe.speed import measure_matmul_flops

HERE = Path(__file__).parent
MODEL = "assets/smollm2-135m-instruct"
ROWS = "assets/gsm8k/test.jsonl"
NUM_ROWS, NUM_STEPS = 100, 8
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
    """What one system gave: real tokens and seconds of each step but the first, peak memory in GiB, held-out loss."""

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    peak_gib: float
    loss: float

    @property
    def speeds(self) -> tuple[float, ...]:
        """Tokens a second of each step."""
        return tuple(count / duration for count, duration in zip(self.tokens, self.seconds, strict=True))

    def times(self, other: Result) -> float:
        """The median of how often faster than the other's the steps were, turn by turn."""
        return median(own / others for own, others in zip(self.speeds, other.speeds, strict=True))


def vlmforge(folder: Path, *words: str) -> System:
    """`vlmforge train` with these words into a folder, on the CPU as TRL and in one process, GPUs or not."""
    command = [sys.executable, "-m", "vlmforge", "train", *words, f"run.output_dir={folder}", "run.name=run"]
    command += ["launch.device=cpu", "logging.trackers=[]"]
    return System("vlmforge", command, folder / "run" / "metrics.jsonl", folder / "log")


def trl(folder: Path, *words: object) -> System:
    """TRL's SFTTrainer with these words into a folder."""
    command = [sys.executable, str(HERE / "peer_trl.py"), *map(str, words), "--output", str(folder / "out")]
    return System("TRL", command, folder / "out" / "steps.jsonl", folder / "log")


def run_both(kind: str, masters: str, folder: Path) -> tuple[Result, Result]:
    """On the same rows, in turn."""
    for name in ("vlmforge", "trl"):
        (folder / name).mkdir()
    words = [f"recipe={HERE / 'sft_throughput.yaml'}", *MASTERS[masters], *(["stage=lora"] if kind == "lora" else [])]
    words += [f"stage.optimizer.lr={LR[kind]}", f"stage.max_steps={NUM_STEPS}"]
    ours = vlmforge(folder / "vlmforge", *words)
    theirs = trl(folder / "trl", *trl_words(kind, masters, NUM_STEPS))
    our_seconds, their_seconds = time_in_turns((ours, theirs), NUM_STEPS)
    our_loss = held_out_loss(folder / "vlmforge" / "run" / "export", kind)
    their_loss = held_out_loss(folder / "trl" / "out", kind)
    return result(ours, our_seconds, our_loss), result(theirs, their_seconds, their_loss)


def trl_words(kind: str, masters: str, num_steps: int) -> list[object]:
    """What peer_trl.py is asked for."""
    words = ["--model", MODEL, "--rows", ROWS, "--num-rows", NUM_ROWS, "--kind", kind, "--masters", masters]
    return [*words, "--steps", num_steps, "--lr", LR[kind]]


def result(system: System, seconds: list[float], loss: float) -> Result:
    """From a system's report and its steps' seconds, the first left out."""
    lines = system.lines()
    tokens = tuple(line["num_tokens"] for line in lines[1:])
    return Result(tokens, tuple(seconds[1:]), lines[-1]["peak_memory_gib"], loss)


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


def compare(kinds: list[str], masters: list[str], console: Console) -> None:
    """Print the table of both systems."""
    table = Table(title=f"SmolLM2-135M, {NUM_ROWS} GSM8K problems packed to 1,024 tokens, bfloat16 compute")
    for column in ("training", "masters", "system", "tokens/s", "of the limit", "peak GiB", "held-out loss"):
        table.add_column(column, justify="left" if column in ("training", "masters", "system") else "right")
    console.print(f"held-out loss before: {held_out_loss(MODEL, 'full'):.4f}")
    for kind in kinds:
        flops = count_flops(kind)
        for dtype in masters:
            before = measure_matmul_flops(torch.device("cpu"), torch.bfloat16)
            with tempfile.TemporaryDirectory() as folder:
                ours, theirs = run_both(kind, dtype, Path(folder))
            limit = max(before, measure_matmul_flops(torch.device("cpu"), torch.bfloat16))
            for system, given in (("vlmforge", ours), ("TRL", theirs)):
                speed = median(given.speeds)
                table.add_row(
                    *(kind, dtype, system, f"{speed:.0f}", f"{speed * flops / limit:.2f}"),
                    *(f"{given.peak_gib:.2f}", f"{given.loss:.4f}"),
                )
            console.print(
                f"{kind}, {dtype} masters: {ours.times(theirs):.2f} times TRL's tokens/s, "
                f"{ours.peak_gib / theirs.peak_gib:.2f} of its memory; limit {limit / 1e9:.0f} GFLOP/s; "
                f"by step {spell(ours)} and {spell(theirs)}",
                soft_wrap=True,
            )
    console.print(table)


def spell(result: Result) -> str:
    """Tokens a second of each step."""
    return " ".join(f"{speed:.0f}" for speed in result.speeds)


def search(console: Console) -> None:
    """Print TRL's speed under several settings, in full training over bfloat16 masters."""
    for packing, seq_len, rows, accumulation in SEARCH:
        words = ("--packing", packing, "--seq-len", seq_len, "--micro-batch-size", rows, "--accumulation", accumulation)
        with tempfile.TemporaryDirectory() as folder:
            system = trl(Path(folder), *trl_words("full", "bfloat16", 3), *words)
            (seconds,) = time_in_turns((system,), 3)
            given = result(system, seconds, float("nan"))
            console.print(
                f"TRL {'packed' if packing else 'padded'}, {seq_len} tokens, {rows} rows x {accumulation}: "
                f"{median(given.speeds):.0f} tokens/s, {given.peak_gib:.2f} GiB"
            )


def main() -> None:
    """Compare, or search TRL's best setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--masters", nargs="+", choices=tuple(MASTERS), default=list(MASTERS))
    parser.add_argument("--search", action="store_true", help="try settings of TRL instead")
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    console = Console()
    if given.search:
        search(console)
    else:
        compare(given.kinds, given.masters, console)


if __name__ == "__main__":
    main()
