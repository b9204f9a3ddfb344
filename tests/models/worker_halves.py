"""One rank that shards what it trains with others, while two threads of its own compute the layers."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import torch
from tests.models.test_halves import BF16, Case, configure, counted, few_rows

from vlmforge.config.derived import Axes
from vlmforge.parallel.mesh import open_world
from vlmforge.train.recording import record_mesh


def main(folder: Path) -> None:
    torch.set_num_threads(2)
    shared = mock.patch("vlmforge.parallel.mesh._share_threads")
    with shared, few_rows(), counted() as dims, open_world(Axes(dp_shard=2), "cpu", 300.0) as world:
        for name, changes in (("fp32", {}), ("bf16", BF16)):
            record = record_mesh(configure(Case("llama"), folder, world.axes, **changes), world)
            if world.is_main:
                record.save(folder / f"ranks-{name}")
    assert dims, "no layer was cut"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
