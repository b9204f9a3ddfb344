"""One rank that trains every shipped recipe at scale=tiny, one after the other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import vlmforge.train.loop  # noqa: F401 (so that the ranks are forked with everything imported)
from vlmforge.cli import main
from vlmforge.config.recipes import locate_recipe

# Recipes in a folder of this name stop after their first step and go on from there.
STOPPING = "stopping"


def _mesh(name: str) -> list[str]:
    """Two ranks: along the axis that the recipe has besides, tp in the place of four or eight, or dp_shard."""
    text = locate_recipe(name).path.read_text()
    axis = next((axis for axis in ("tp", "cp") if f"/parallelism: fsdp_{axis}" in text), "dp_shard")
    return [f"parallelism.{axis}=2"]


def train_all(folder: Path, names: list[str]) -> None:
    ranks = os.environ["WORLD_SIZE"]
    os.chdir(folder)
    for name in names:
        mesh = [] if ranks == "1" else _mesh(name)
        words = [f"recipe={name}", "scale=tiny", *mesh, "logging.sample_ids=true"]
        runs = [["run.stop_after_steps=1"], []] if name.startswith(f"{STOPPING}/") else [[]]
        for part, more in enumerate(runs):
            # The rendezvous file of one process group cannot serve the next.
            os.environ["VLMFORGE_RENDEZVOUS"] = f"file://{folder}/rendezvous-{name.replace('/', '-')}-{part}"
            code = main(["train", *words, *more])
            assert code == 0, (name, code)


if __name__ == "__main__":
    train_all(Path(sys.argv[1]), sys.argv[2:])
