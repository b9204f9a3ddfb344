"""Sharding on two ranks of tp: what it does not cut is not on both."""

import json
from pathlib import Path

import pytest

from tests.parallel.worker_shard import FAMILY
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.tiny import make_base


def test_tower_and_projector_are_shared_out_over_tp(tmp_path: Path) -> None:
    make_base(tmp_path / FAMILY, FAMILY)
    wait_for_ranks(start_ranks("tests.parallel.worker_shard", 2, tmp_path))
    first, second = (json.loads((tmp_path / f"sizes-{rank}.json").read_text()) for rank in range(2))
    for group in ("vision_tower", "projector"):
        (here, full), (there, _) = first[group], second[group]
        # FSDP fills up what does not divide; it is no rank's.
        assert here + there == full
        assert here == pytest.approx(full / 2, rel=0.1)
