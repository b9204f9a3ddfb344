"""One rank of the numerics tests: every case on every mesh, one start of Python for all of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.numerics.cases import MESHES, cases_for
from tests.numerics.harness import configure, run_vlmforge
from vlmforge.parallel.mesh import open_world


def main(folder: Path) -> None:
    world_size = int(os.environ["WORLD_SIZE"])
    for mesh, axes in MESHES[world_size].items():
        os.environ["VLMFORGE_RENDEZVOUS"] = f"file://{folder}/rendezvous-{mesh}"
        with open_world(axes, "cpu", 120.0) as world:
            for case in cases_for(mesh):
                record = run_vlmforge(case, configure(case, folder, axes), world)
                if world.is_main:
                    record.save(folder / f"{mesh}-{case.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
