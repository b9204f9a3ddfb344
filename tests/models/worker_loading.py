"""One rank of the memory test: how far anonymous memory grows while a folder of weights is loaded."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
import threading
from pathlib import Path

from tests.support.runs import LORA, write_recipe

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.config.derived import Axes
from vlmforge.parallel.mesh import World, open_world
from vlmforge.parallel.shard import full_tensor
from vlmforge.train.session import build_root

# Libraries are loaded with the first model; what they need is none of the second's.
MESHES = {"first": Axes(dp_shard=2), "dp_shard2": Axes(dp_shard=2), "tp2": Axes(tp=2)}


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


class Watch(threading.Thread):
    """Keeps the largest value that it saw."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.largest = 0

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.largest = max(self.largest, anonymous_bytes())


def load(weights: Path, recipe: Path, world: World) -> int:
    words = ["~model.family", "~model.config", "model.init=pretrained", f"model.pretrained={weights}"]
    config = load_config(Request("train", {"recipe": [str(recipe)]}, words), environ={}).config
    # What an earlier model left in the heap would be taken again without a trace in the count.
    ctypes.CDLL(None).malloc_trim(0)
    before, watch = anonymous_bytes(), Watch()
    watch.start()
    root = build_root(config, world)
    growth = max(watch.largest, anonymous_bytes()) - before
    watch.done.set()
    watch.join()
    assert root.training
    return growth


def draw(recipe: Path, world: World) -> dict[str, str]:
    """A digest of every weight, adapters included, of a model that is drawn from the run's seed."""
    config = load_config(Request("train", {"recipe": [str(recipe)]}, LORA), environ={}).config
    named = build_root(config, world).model.named_parameters()
    return {name: hashlib.sha256(full_tensor(p.detach()).numpy().tobytes()).hexdigest() for name, p in named}


def main(folder: Path) -> None:
    growth, drawn, rank = {}, {}, int(os.environ["RANK"])
    (folder / f"recipe-{rank}").mkdir()
    recipe = write_recipe(folder / f"recipe-{rank}")
    for mesh, axes in MESHES.items():
        os.environ["VLMFORGE_RENDEZVOUS"] = f"file://{folder}/rendezvous-{mesh}"
        with open_world(axes, "cpu", 120.0) as world:
            growth[mesh] = load(folder / ("small" if mesh == "first" else "large"), recipe, world)
            drawn[mesh] = draw(recipe, world)
    (folder / f"growth-{rank}.json").write_text(json.dumps(growth))
    (folder / f"drawn-{rank}.json").write_text(json.dumps(drawn))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
