"""One rank of the matrix: every mesh of one number of ranks, and every family on it, in one start of Python."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.numerics.harness import configure, run_vlmforge
from tests.numerics.matrix import MESHES, cells_of
from vlmforge.parallel.mesh import open_world


def main(folder: Path) -> None:
    for mesh, (axes, _) in MESHES[int(os.environ["WORLD_SIZE"])].items():
        os.environ["VLMFORGE_RENDEZVOUS"] = f"file://{folder}/rendezvous-{mesh}"
        with open_world(axes, "cpu", 120.0) as world:
            for case in cells_of(mesh):
                record = run_vlmforge(case, configure(case, folder, axes), world)
                if world.is_main:
                    record.save(folder / f"{mesh}-{case.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
