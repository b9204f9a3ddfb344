"""One rank that trains published models, converted, for a step in which nothing changes, and exports them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import vlmforge.train.loop  # noqa: F401 (so that the ranks are forked with everything imported)
from vlmforge.cli import main


def train_published(layout: str, tp: int) -> None:
    """In the folder that holds `ours-<layout>`; the run is `<layout>-<tp>`."""
    words = [f"model.pretrained=ours-{layout}", f"run.name={layout}-{tp}", f"parallelism.tp={tp}"]
    assert main(["train", "recipe=none.yaml", *words]) == 0


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    os.chdir(folder)
    ranks = int(os.environ["WORLD_SIZE"])
    for name in sys.argv[2:]:
        os.environ["VLMFORGE_RENDEZVOUS"] = f"file://{folder}/rendezvous-{name}-{ranks}"
        train_published(name, ranks)
