"""One rank of the matrix: every mesh of one number of ranks, and every family on it, in one start of Python.

With names of families behind the folder it trains what the page shows of them, without, what the suite trains.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.numerics.cells import MESHES, cells_of, families_on, page_cases
from tests.numerics.harness import Case, configure, run_vlmforge, write_refusal
from vlmforge.errors import ConfigError
from vlmforge.parallel.mesh import World, open_world


def main(folder: Path, families: Sequence[str]) -> None:
    for mesh, (axes, _) in MESHES[int(os.environ["WORLD_SIZE"])].items():
        os.environ["VLMFORGE_RENDEZVOUS"] = f"file://{folder}/rendezvous-{mesh}"
        shown = [case for name in families_on(mesh) if name in families for case in page_cases(name).values()]
        with open_world(axes, "cpu", 300.0) as world:
            for case in shown if families else cells_of(mesh):
                train(case, mesh, world, folder)


def train(case: Case, mesh: str, world: World, folder: Path) -> None:
    """Record a case, or why it is refused."""
    try:
        config = configure(case, folder, world.axes)
    except ConfigError as error:
        if world.is_main:
            write_refusal(folder, mesh, case, error)
        return
    record = run_vlmforge(case, config, world)
    if world.is_main:
        record.save(folder / f"{mesh}-{case.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
