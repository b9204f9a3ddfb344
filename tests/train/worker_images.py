"""One rank that trains the recipe of a folder: whole, and stopped and gone on with other workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vlmforge.cli import main

# Three epochs of four rows with a frozen tower, whose features are kept or not.
KEEPING = ["model.cache_image_embeds=true", "model.image_cache_dir=embeds"]
FROZEN = [
    "recipe=mistral_clip/pretrain",
    "scale=tiny",
    "parallelism.tp=1",
    "data.train=[{path: chats.jsonl, format: messages, rows: [0, 4]}]",
    "data.num_workers=0",
    "data.shuffle=false",
    "stage.schedule.warmup_steps=0",
]
RUNS = (
    ("whole", []),
    ("stopped", ["run.stop_after_steps=2"]),
    ("stopped", ["data.num_workers=2"]),
    # On two ranks: in the first step one without a picture and one with, in the third one without and one lost.
    ("mixed", ["stage.packing=none", "~stage.packing_window", "data.shuffle=false"]),
    ("seen", FROZEN),
    ("kept", [*FROZEN, *KEEPING]),
    ("read", [*FROZEN, *KEEPING]),
)


def train_all(folder: Path) -> None:
    os.chdir(folder)
    for part, (name, more) in enumerate(RUNS):
        os.environ["VLMFORGE_RENDEZVOUS"] = f"file://{folder}/rendezvous-{part}"
        recipe = [] if more[:1] == FROZEN[:1] else ["recipe=images.yaml"]
        words = [*recipe, f"run.name={name}", f"parallelism.dp_shard={os.environ['WORLD_SIZE']}"]
        code = main(["train", *words, *more])
        assert code == 0, (name, code)


if __name__ == "__main__":
    train_all(Path(sys.argv[1]))
