"""The same losses and the same gradient of every parameter as a plain loop has: every family, every mesh, every cut."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from tests.numerics.case import Case, configure, write_holes
from tests.numerics.cells import ALL, BROKEN, CELLS, PICTURES, PLAIN, SELDOM, SINGLE, STITCHED, WORLD_SIZES, cases_on
from tests.numerics.results import broken_bounds, one_thread, read_refusal, train, train_plain
from tests.numerics.support_matrix import PAGE, RESULTS, all_names, cell_name, render
from tests.support.ranks import start_groups, wait_for_ranks
from tests.support.tiny import make_adapter, make_base
from vlmforge.config.derived import Axes
from vlmforge.data.collate import collate
from vlmforge.models import FAMILIES
from vlmforge.models.images import build_image_rule
from vlmforge.models.tokenizer import build_tokenizer
from vlmforge.parallel.mesh import open_world
from vlmforge.train.plain_loop import global_batches

# About twelve minutes on two cores that have nothing else to do.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2700)]

PUBLISHED = json.loads(RESULTS.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all cases and the plain loops came to."""
    folder = tmp_path_factory.mktemp("cells")
    for family in PLAIN + STITCHED + SELDOM:
        make_adapter(folder / f"{family}-adapter", make_base(folder / family, family))
    write_holes(folder)
    ranks = start_groups("tests.numerics.worker", WORLD_SIZES, folder)
    with one_thread():
        for case in {case.reference for _, case in ALL}:
            train_plain(case, folder)
        with open_world(Axes(), "cpu", 60.0) as world:
            for case in cases_on(SINGLE):
                train(case, SINGLE, world, folder)
    wait_for_ranks(ranks, timeout_seconds=2500)
    return folder


@pytest.mark.parametrize(
    ("mesh", "case"), [pair for pair in ALL if not pair[1].mutation], ids=lambda value: getattr(value, "name", value)
)
def test_training_equals_a_plain_loop(mesh: str, case: Case, folder: Path) -> None:
    refused = PUBLISHED.get(cell_name(case.family, mesh, "lora" if case.is_lora else "full"), {}).get("refused")
    assert read_refusal(folder, mesh, case) == refused
    if refused is None:
        assert broken_bounds(folder, mesh, case) == []


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.mutation)
def test_a_missing_mechanism_is_noticed(case: Case, folder: Path) -> None:
    assert broken_bounds(folder, BROKEN[case], case) != []


def test_some_micro_batches_and_slices_have_no_picture_where_others_have(folder: Path) -> None:
    """Or the cases of a row each would not show that ranks without keep up with those that have one."""
    case = PICTURES[0]
    config = configure(case, folder)
    rule = build_image_rule(config.model, build_tokenizer(config.model))
    batches = [collate([row], rule) for rows in islice(global_batches(config), case.num_steps) for row in rows]
    assert {batch.images is None for batch in batches} == {True, False}
    is_image = [batch.input_ids[0] == FAMILIES[case.family].tiny["image_token_id"] for batch in batches]
    halves = {tuple(bool(half.any()) for half in tokens.tensor_split(2)) for tokens in is_image}
    assert {(True, False), (True, True)} <= halves


def test_the_page_is_that_of_its_results() -> None:
    assert PAGE.read_text() == render(PUBLISHED)


def test_every_cell_of_the_page_is_right_or_refused_and_has_its_test() -> None:
    assert PUBLISHED.keys() == all_names()
    tested = {cell_name(case.family, mesh, "lora" if case.is_lora else "full") for mesh, case in CELLS}
    assert {name for name in all_names() if not name.startswith("stitched")} <= tested <= all_names()
    assert not [name for name, cell in PUBLISHED.items() if any("broken" in run for run in cell.values())]
    refused = [name for name, cell in PUBLISHED.items() if "refused" in cell]
    assert len(refused) <= len(PUBLISHED) / 10
