"""The same losses and gradients on meshes with tensor and expert parallelism as a plain loop has, family by family."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.numerics.harness import Case, configure
from tests.numerics.matrix import BROKEN, CELLS, MESHES
from tests.numerics.test_parity import broken_bounds
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.tiny import make_adapter, make_base
from vlmforge.train.plain_loop import record_plain


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all cells and of the plain loop."""
    folder = tmp_path_factory.mktemp("matrix")
    for family in dict.fromkeys(case.family for _, case in CELLS):
        make_adapter(folder / f"{family}-adapter", make_base(folder / family, family))
    ranks = [rank for size in MESHES for rank in start_ranks("tests.numerics.worker_matrix", size, folder)]
    for case in {case.reference for _, case in CELLS}:
        record_plain(configure(case, folder)).save(folder / f"plain-{case.name}")
    wait_for_ranks(ranks, timeout_seconds=900)
    return folder


@pytest.mark.parametrize(
    ("mesh", "case"), [cell for cell in CELLS if not cell[1].mutation], ids=lambda value: getattr(value, "name", value)
)
def test_every_cell_trains_as_a_plain_loop(mesh: str, case: Case, matrix: Path) -> None:
    assert broken_bounds(case, mesh, matrix) == []


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.mutation)
def test_a_missing_sum_over_ranks_is_noticed(case: Case, matrix: Path) -> None:
    assert broken_bounds(case, "tp2", matrix) != []
