"""What counting gives on WordNet's held-out rows, to compare `smollm2/pretrain_wordnet` with; losses in nats a token.

    python scripts/fetch_assets.py --only smollm2 wordnet
    python benchmarks/wordnet_baselines.py

Every token but the first of a row is predicted, the end of the row included: from how often it occurs in the training
rows (one added to every count), and from the token before it (0.7 of how often it followed that, 0.3 of the former).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

TOKENIZER = "assets/smollm2-135m-instruct"
ROWS = Path("assets/wordnet")
BIGRAM_SHARE = 0.7


def read_tokens(part: str) -> list[np.ndarray]:
    """The ids of every row of a part, with the end token."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    texts = [json.loads(line)["text"] for line in (ROWS / f"{part}.jsonl").read_text().splitlines()]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [np.array([*ids, tokenizer.eos_token_id]) for ids in encoded]


def pair_codes(rows: list[np.ndarray], size: int) -> np.ndarray:
    """One number for each token together with the one before it."""
    return np.concatenate([row[:-1] * size + row[1:] for row in rows])


def main() -> None:
    """Count, and print the three losses."""
    size = len(AutoTokenizer.from_pretrained(TOKENIZER))
    train, held_out = read_tokens("train"), read_tokens("validation")
    counts = np.bincount(np.concatenate(train), minlength=size)
    unigram = (counts + 1) / (counts.sum() + size)
    kinds, pair_counts = np.unique(pair_codes(train, size), return_counts=True)
    firsts = np.bincount(np.concatenate([row[:-1] for row in train]), minlength=size)

    asked = pair_codes(held_out, size)
    before, token = asked // size, asked % size
    place = np.minimum(np.searchsorted(kinds, asked), len(kinds) - 1)
    followed = np.where(kinds[place] == asked, pair_counts[place], 0) / np.maximum(firsts[before], 1)
    mixed = BIGRAM_SHARE * followed + (1 - BIGRAM_SHARE) * unigram[token]
    print(f"{len(train)} rows of {counts.sum()} tokens; {len(asked)} tokens predicted in {len(held_out)} rows")
    print(f"all alike {math.log(size):.2f}, unigram {-np.log(unigram[token]).mean():.2f}, ", end="")
    print(f"with bigrams {-np.log(mixed).mean():.2f}")


if __name__ == "__main__":
    main()
