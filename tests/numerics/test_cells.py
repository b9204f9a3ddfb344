"""The same losses and gradients on every mesh as a plain loop has, family by family; and the page that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.numerics.cells import CELLS, MESHES
from tests.numerics.harness import Case, configure, read_refusal
from tests.numerics.support_matrix import PAGE, RESULTS, cell_name, render
from tests.numerics.test_parity import broken_bounds
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.tiny import make_adapter, make_base
from vlmforge.train.plain_loop import record_plain

PUBLISHED = json.loads(RESULTS.read_text())


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all cells and of the plain loop."""
    folder = tmp_path_factory.mktemp("cells")
    for family in dict.fromkeys(case.family for _, case in CELLS):
        make_adapter(folder / f"{family}-adapter", make_base(folder / family, family))
    ranks = [rank for size in MESHES for rank in start_ranks("tests.numerics.worker_cells", size, folder)]
    for case in {case.reference for _, case in CELLS}:
        record_plain(configure(case, folder)).save(folder / f"plain-{case.name}")
    wait_for_ranks(ranks, timeout_seconds=900)
    return folder


@pytest.mark.parametrize(("mesh", "case"), CELLS, ids=lambda value: getattr(value, "name", value))
def test_every_cell_trains_as_a_plain_loop(mesh: str, case: Case, cells: Path) -> None:
    kind = "lora" if case.is_lora else "full"
    refused = PUBLISHED.get(cell_name(case.family, mesh, kind), {}).get("refused")
    assert read_refusal(cells, mesh, case) == refused
    if refused is None:
        assert broken_bounds(case, mesh, cells) == []


def test_the_page_is_that_of_its_results() -> None:
    assert PAGE.read_text() == render(PUBLISHED)


def test_every_cell_of_the_page_is_right_or_refused_and_has_its_test() -> None:
    cells = {cell_name(case.family, mesh, "lora" if case.is_lora else "full") for mesh, case in CELLS}
    assert PUBLISHED.keys() == cells
    assert not [name for name, cell in PUBLISHED.items() if any("broken" in run for run in cell.values())]
    refused = [name for name, cell in PUBLISHED.items() if "refused" in cell]
    assert len(refused) <= len(cells) / 10
