"""The same losses and the same gradient of every parameter as a plain loop, on every mesh and every cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.numerics.cases import BROKEN, CASES, FAMILY_CASES, MESHES, cases_for
from tests.numerics.harness import (
    Case,
    configure,
    load_result,
    plain_name,
    run_plain,
    run_vlmforge,
    save_result,
)
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.tiny import make_adapter, make_base
from vlmforge.config.derived import Axes
from vlmforge.parallel.mesh import open_world

GRAD_TOLERANCE = 1e-5
LOSS_TOLERANCE = 3e-6
NORM_TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base models, adapters, and the results of all cases, on one process and on two."""
    folder = tmp_path_factory.mktemp("numerics")
    for family in {case.family for case in (*CASES, *FAMILY_CASES)}:
        make_adapter(folder / f"{family}-adapter", make_base(folder / family, family))
    ranks = start_ranks("tests.numerics.worker", 2, folder)
    with open_world(Axes(), "cpu", 60.0) as world:
        for case in cases_for("single"):
            save_result(folder / f"single-{case.name}", run_vlmforge(case, configure(case, folder), world))
    for case in {case.reference for case in (*CASES, *FAMILY_CASES)}:
        save_result(folder / f"plain-{case.name}", run_plain(case, configure(case, folder)))
    wait_for_ranks(ranks)
    return folder


def largest_errors(case: Case, mesh: str, folder: Path) -> dict[str, float]:
    """Relative errors against the plain loop: of losses, of norms, and of the worst parameter's gradient."""
    ours, plain = load_result(folder / f"{mesh}-{case.name}"), load_result(folder / f"plain-{case.reference.name}")
    named = {plain_name(name, case.is_lora): grad for name, grad in ours["grads"].items()}
    assert named.keys() == plain["grads"].keys()
    return {
        "loss": _relative(ours["losses"], plain["losses"]),
        "norm": _relative(ours["grad_norms"], plain["grad_norms"]),
        "grad": max(_distance(named[name], grad) for name, grad in plain["grads"].items()),
    }


def _relative(ours: list[float], plain: list[float]) -> float:
    assert len(ours) == len(plain) >= 3
    return max(abs(a - b) / abs(b) for a, b in zip(ours, plain, strict=True))


def _distance(ours: torch.Tensor, plain: torch.Tensor) -> float:
    return ((ours - plain).norm() / plain.norm()).item()


def is_equal(errors: dict[str, Any]) -> bool:
    return errors["loss"] <= LOSS_TOLERANCE and errors["norm"] <= NORM_TOLERANCE and errors["grad"] <= GRAD_TOLERANCE


ALL = [(mesh, case) for meshes in MESHES.values() for mesh in meshes for case in cases_for(mesh)]


@pytest.mark.parametrize(
    ("mesh", "case"), [pair for pair in ALL if not pair[1].mutation], ids=lambda value: getattr(value, "name", value)
)
def test_training_equals_a_plain_loop(mesh: str, case: Case, folder: Path) -> None:
    errors = largest_errors(case, mesh, folder)
    assert is_equal(errors), errors


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.mutation)
def test_a_missing_mechanism_is_noticed(case: Case, folder: Path) -> None:
    errors = largest_errors(case, BROKEN[case], folder)
    assert not is_equal(errors), errors
