"""Pictures and tokens per second, memory and loss of vlmforge and of TRL on the same pictures, a step of each in turn.

    python scripts/fetch_assets.py --only smollm2 openmoji
    pip install -e '.[benchmark]'
    python benchmarks/vlm_sft_throughput.py

A Qwen3-VL of about 100M parameters, with random weights and SmolLM2's tokenizer, learns OpenMoji's captions: 16 rows a
step for six steps, tower, projector and language model, computing in bfloat16 over bfloat16 masters and over float32
masters. Pictures are put on white first, so that both see the same. Each system is a process of its own, vlmforge's is
the command `vlmforge train`, and one of the two runs at a time: a step of this, then a step of that. A speed is the
median of all steps but the first, and the ratio that of the turns' ratios. The held-out loss is that of the exported
folders, by plain transformers in float32. Nothing else should run on the machine. `--search` tries TRL with other
micro-batches instead.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    set_seed,
)

from sft_throughput import MASTERS, Result, result, trl, vlmforge
from turns import time_in_turns

HERE = Path(__file__).parent
TOKENIZER = "assets/smollm2-135m-instruct"
ROWS = Path("assets/openmoji/messages.jsonl")
NUM_ROWS, NUM_STEPS, ROWS_A_STEP = 256, 6, 16
HELD_OUT = slice(300, 320)
LR = 1e-4
# Each picture of 96 pixels squared is enlarged to 256, which is 64 tokens.
PIXELS = 256 * 256
IMAGE_WORDS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# A turn ends with its mark and no line break, so that what follows an answer is for both the same: nothing.
TEMPLATE = """\
{%- for message in messages %}{{ ('' if loop.first else '\\n') + '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}{{ '<|im_end|>' }}
{%- endfor %}{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"""
# Rows of a micro-batch and micro-batches of a step.
SEARCH = ((2, 8), (4, 4), (8, 2), (16, 1))


def make_base(folder: Path) -> int:
    """A Hugging Face folder of the model with its processor; the number of its parameters.

    The proportions are Qwen3-VL-2B's: 28 layers of width 2,048 behind a tower of 24 of width 1,024, which shows three
    of its layers to the language model, become 20 of 512 behind 17 of 256.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.add_tokens(list(IMAGE_WORDS), special_tokens=True)
    ids = dict(zip(IMAGE_WORDS, tokenizer.convert_tokens_to_ids(list(IMAGE_WORDS)), strict=True))
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 20,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_interleaved": True, "mrope_section": [12, 10, 10],
            },
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 17, "hidden_size": 256, "intermediate_size": 1024, "num_heads": 4, "out_hidden_size": 512,
            "num_position_embeddings": 2304, "deepstack_visual_indexes": [4, 8, 12],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    set_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    sizes = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    budget = {"size": {"shortest_edge": PIXELS, "longest_edge": PIXELS}}
    pictures: Any = Qwen2VLImageProcessor(**sizes, **budget, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    films: Any = Qwen3VLVideoProcessor()
    Qwen3VLProcessor(pictures, tokenizer, films, chat_template=TEMPLATE).save_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def write_rows(folder: Path) -> None:
    """The pictures on white, `rows.jsonl` with question, answer and picture, and the same as `messages.jsonl`."""
    (folder / "images").mkdir()
    rows, chats = [], []
    for line in ROWS.read_text().splitlines():
        chat = json.loads(line)
        user, assistant = chat["messages"]
        picture, question = user["content"]
        drawn = Image.open(ROWS.parent / picture["image"]).convert("RGBA")
        target = folder / picture["image"]
        Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB").save(target)
        rows.append({"image": str(target), "question": question["text"], "answer": assistant["content"]})
        chats.append(chat)
    for name, lines in (("rows", rows), ("messages", chats)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def run_both(base: Path, masters: str, folder: Path) -> tuple[Result, Result]:
    """On the same rows, in turn."""
    for name in ("vlmforge", "trl"):
        (folder / name).mkdir()
    rows = f"{{path: {base / 'messages.jsonl'}, format: messages, rows: [0, {NUM_ROWS}]}}"
    words = [f"recipe={HERE / 'vlm_sft_throughput.yaml'}", f"model.pretrained={base}", f"data.train=[{rows}]"]
    words += [*MASTERS[masters], f"stage.max_steps={NUM_STEPS}", f"stage.optimizer.lr={LR}"]
    ours = vlmforge(folder / "vlmforge", *words)
    theirs = trl(folder / "trl", *trl_words(base, masters, ROWS_A_STEP, NUM_STEPS))
    our_seconds, their_seconds = time_in_turns((ours, theirs), NUM_STEPS)
    our_loss = held_out_loss(folder / "vlmforge" / "run" / "export", base)
    return result(ours, our_seconds, our_loss), result(
        theirs, their_seconds, held_out_loss(folder / "trl" / "out", base)
    )


def trl_words(base: Path, masters: str, micro_batch_size: int, num_steps: int) -> list[object]:
    """What peer_trl.py is asked for."""
    words = ["--model", base, "--rows", base / "rows.jsonl", "--num-rows", NUM_ROWS, "--kind", "full"]
    words += ["--masters", masters, "--micro-batch-size", micro_batch_size]
    return [*words, "--accumulation", ROWS_A_STEP // micro_batch_size, "--steps", num_steps, "--lr", LR]


def held_out_loss(folder: Path, base: Path) -> float:
    """Mean token loss of held-out captions, by plain transformers in float32."""
    processor: Any = AutoProcessor.from_pretrained(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    total, count = 0.0, 0
    for row in [json.loads(line) for line in (base / "rows.jsonl").read_text().splitlines()[HELD_OUT]]:
        content = [{"type": "image"}, {"type": "text", "text": row["question"]}]
        turns = [{"role": "user", "content": content}]
        asked = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        picture = Image.open(row["image"])
        inputs = processor(text=[asked + row["answer"] + "<|im_end|>"], images=[picture], return_tensors="pt")
        start = processor(text=[asked], images=[picture], return_tensors="pt")["input_ids"].shape[1]
        labels = inputs["input_ids"].clone()
        labels[:, :start] = -100
        with torch.no_grad():
            loss = model(**inputs, labels=labels).loss
        total += loss.item() * (labels.shape[1] - start)
        count += labels.shape[1] - start
    return total / count


def compare(base: Path, masters: list[str], console: Console) -> None:
    """Print the table of both systems."""
    table = Table(title=f"Qwen3-VL, OpenMoji, {ROWS_A_STEP} rows a step, bfloat16 compute")
    for column in ("masters", "system", "images/s", "tokens/s", "peak GiB", "held-out loss"):
        table.add_column(column, justify="left" if column in ("masters", "system") else "right")
    console.print(f"held-out loss before: {held_out_loss(base, base):.4f}")
    for dtype in masters:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = run_both(base, dtype, Path(folder))
        for system, given in (("vlmforge", ours), ("TRL", theirs)):
            speeds = f"{ROWS_A_STEP / median(given.seconds):.2f}", f"{median(given.speeds):.0f}"
            table.add_row(dtype, system, *speeds, f"{given.peak_gib:.2f}", f"{given.loss:.4f}")
        ratio = median(their / our for our, their in zip(ours.seconds, theirs.seconds, strict=True))
        console.print(
            f"{dtype} masters: {ratio:.2f} times TRL's images/s, {ours.peak_gib / theirs.peak_gib:.2f} of its memory; "
            f"seconds by step {spell(ours)} and {spell(theirs)}",
            soft_wrap=True,
        )
    console.print(table)


def spell(result: Result) -> str:
    """Seconds of each step."""
    return " ".join(f"{seconds:.2f}" for seconds in result.seconds)


def search(base: Path, console: Console) -> None:
    """Print TRL's speed with other micro-batches, over bfloat16 masters."""
    for rows, accumulation in SEARCH:
        with tempfile.TemporaryDirectory() as folder:
            system = trl(Path(folder), *trl_words(base, "bfloat16", rows, 3))
            (seconds,) = time_in_turns((system,), 3)
            given = result(system, seconds, float("nan"))
        console.print(
            f"TRL, {rows} rows x {accumulation}: {ROWS_A_STEP / median(given.seconds):.2f} images/s, "
            f"{given.peak_gib:.2f} GiB"
        )


def main() -> None:
    """Compare, or search TRL's best setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masters", nargs="+", choices=tuple(MASTERS), default=list(MASTERS))
    parser.add_argument("--search", action="store_true", help="try settings of TRL instead")
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        console.print(f"{make_base(base) / 1e6:.0f}M parameters")
        write_rows(base)
        if given.search:
            search(base, console)
        else:
            compare(base, given.masters, console)


if __name__ == "__main__":
    main()
