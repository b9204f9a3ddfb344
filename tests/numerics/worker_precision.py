"""One rank of the comparisons of precision: every mesh and every way to train, in one start of Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.numerics.precision import COMPILED, MESHES, RUNS, Case, configure, traced_only
from vlmforge.parallel.mesh import World, open_world
from vlmforge.train.recording import record_mesh


def main(folder: Path) -> None:
    for mesh, axes in MESHES.items():
        os.environ["VLMFORGE_RENDEZVOUS"] = f"file://{folder}/rendezvous-{mesh}"
        with open_world(axes, "cpu", 300.0) as world:
            for name, (case, changes) in RUNS.items():
                record(f"{mesh}-{name}", case, changes, world, folder)
            for name, (on, case, changes) in COMPILED.items():
                if on == mesh:
                    record_compiled(name, case, changes, world, folder)


def record_compiled(name: str, case: Case, changes: Mapping[str, Any], world: World, folder: Path) -> None:
    record(f"{name}-plain", case, {}, world, folder)
    with traced_only():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        record(f"{name}-compiled", case, {**changes, "compile": True}, world, folder)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        (folder / f"{name}-graphs-{world.rank}").write_text(str(graphs))


def record(name: str, case: Case, changes: Mapping[str, Any], world: World, folder: Path) -> None:
    kept = record_mesh(configure(case, folder, world.axes, **changes), world)
    if world.is_main:
        kept.save(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
