"""Which of N held-out pictures does a model find a caption most likely for? A score for models that write captions.

    python scripts/caption_retrieval.py runs/captions-pretrain/export assets/openmoji-all/validation.jsonl

reads the folder with plain transformers and prints, over the captions of the first 100 rows of a file in format
`messages`, in how many cases the caption's own picture comes first, and among the first ten. Every picture is asked the
first row's question.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

import vlmforge.models.stitched_model  # noqa: F401 (makes the Auto classes know stitched models)

TOP = 10


def read_rows(path: Path, limit: int) -> list[tuple[Path, str, str]]:
    """Picture, question and caption of each row."""
    rows = []
    for line in path.read_text().splitlines()[:limit]:
        user, assistant = json.loads(line)["messages"]
        picture, question = user["content"]
        rows.append((path.parent / picture["image"], question["text"], assistant["content"]))
    return rows


def make_answers(tokenizer: Any, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Tokens of all captions with their end marks, filled up to the longest `[N, L]`, and which of them count."""
    made = [tokenizer(f"{text}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"] for text in captions]
    longest = max(map(len, made))
    ids = torch.tensor([row + [tokenizer.eos_token_id] * (longest - len(row)) for row in made])
    counts = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in made])
    return ids, counts


@torch.no_grad()
def score_captions(model: Any, asked: Any, ids: Tensor, counts: Tensor) -> Tensor:
    """`[N]`: the log probability of each caption after one picture and its question."""
    seen = model(**asked, use_cache=True, logits_to_keep=1)
    cache, num = seen.past_key_values, len(ids)
    cache.batch_repeat_interleave(num)
    mask = torch.cat([asked["attention_mask"].expand(num, -1), counts], dim=1)
    later = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits
    logits = torch.cat([seen.logits[:, -1:].expand(num, -1, -1), later[:, :-1]], dim=1).float()
    found = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    return (found * counts).sum(1)


def main() -> None:
    """Score, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--limit", type=int, default=100)
    given = parser.parse_args()

    rows = read_rows(given.rows, given.limit)
    processor: Any = AutoProcessor.from_pretrained(given.checkpoint)
    model: Any = AutoModelForImageTextToText.from_pretrained(given.checkpoint, dtype=torch.bfloat16).eval()
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": rows[0][1]}]}
    text = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    ids, counts = make_answers(processor.tokenizer, [caption for _, _, caption in rows])
    scores = []
    for path, _, _ in rows:
        asked = processor(images=Image.open(path), text=text, return_tensors="pt", add_special_tokens=False)
        scores.append(score_captions(model, asked, ids, counts))
    # Row: picture; column: caption. How many pictures are likelier than the caption's own.
    table = torch.stack(scores)
    before = (table > table.diagonal()).sum(0)
    first, among = ((before < top).float().mean().item() for top in (1, TOP))
    print(
        f"{given.checkpoint}: of {len(rows)} captions {first:.1%} find their picture first, {among:.1%} among the "
        f"first {TOP}; median rank {before.median().item() + 1}"
    )


if __name__ == "__main__":
    main()
