"""One rank: every mesh of its number of ranks, and every case on it, in one start of Python for all of them.

Without further words it trains what the suite does; with names of families and meshes, what the support matrix shows.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.numerics.case import Case, load_case
from tests.numerics.cells import MESHES, WORLD_SIZES, cases_on, shown_on
from tests.numerics.results import train
from vlmforge.parallel.mesh import open_world


def cases_of(mesh: str, words: Sequence[str]) -> tuple[Case, ...]:
    return shown_on(mesh, words) if words else cases_on(mesh)


def prepare(folder: str, *words: str) -> None:
    """What is the same on every rank, before they are forked: recipes are composed."""
    for mesh, axes in MESHES.items():
        for case in cases_of(mesh, words) if axes.world_size in WORLD_SIZES else ():
            load_case(case, Path(folder))


def main(folder: Path, words: Sequence[str]) -> None:
    for mesh, axes in MESHES.items():
        cases = cases_of(mesh, words)
        if axes.world_size != int(os.environ["WORLD_SIZE"]) or not cases:
            continue
        os.environ["VLMFORGE_RENDEZVOUS"] = f"file://{folder}/rendezvous-{mesh}"
        with open_world(axes, "cpu", 300.0) as world:
            for case in cases:
                train(case, mesh, world, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
