"""The same losses and the same gradient of every parameter as a plain loop, on every mesh and every cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.numerics.cases import BROKEN, CASES, FAMILY_CASES, MESHES, cases_for
from tests.numerics.harness import Case, configure, run_vlmforge, write_holes
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.tiny import make_adapter, make_base
from vlmforge.config.derived import Axes
from vlmforge.parallel.mesh import open_world
from vlmforge.train.parity import Bounds, Record, compare
from vlmforge.train.plain_loop import record_plain

BOUNDS = Bounds()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base models, adapters, and the results of all cases, on every number of ranks."""
    folder = tmp_path_factory.mktemp("numerics")
    for family in {case.family for case in (*CASES, *FAMILY_CASES)}:
        make_adapter(folder / f"{family}-adapter", make_base(folder / family, family))
    write_holes(folder)
    ranks = [rank for size in MESHES if size > 1 for rank in start_ranks("tests.numerics.worker", size, folder)]
    with open_world(Axes(), "cpu", 60.0) as world:
        for case in cases_for("single"):
            run_vlmforge(case, configure(case, folder), world).save(folder / f"single-{case.name}")
    for case in {case.reference for case in (*CASES, *FAMILY_CASES)}:
        record_plain(configure(case, folder)).save(folder / f"plain-{case.name}")
    wait_for_ranks(ranks)
    return folder


def broken_bounds(case: Case, mesh: str, folder: Path) -> list[str]:
    """What differs from the plain loop by more than sums in another order explain."""
    ours, plain = (Record.load(folder / name) for name in (f"{mesh}-{case.name}", f"plain-{case.reference.name}"))
    assert len(ours.losses) >= 3
    return BOUNDS.broken_by(compare(ours, plain))


ALL = [(mesh, case) for meshes in MESHES.values() for mesh in meshes for case in cases_for(mesh)]


@pytest.mark.parametrize(
    ("mesh", "case"), [pair for pair in ALL if not pair[1].mutation], ids=lambda value: getattr(value, "name", value)
)
def test_training_equals_a_plain_loop(mesh: str, case: Case, folder: Path) -> None:
    assert broken_bounds(case, mesh, folder) == []


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.mutation)
def test_a_missing_mechanism_is_noticed(case: Case, folder: Path) -> None:
    assert broken_bounds(case, BROKEN[case], folder) != []
