"""Reductions on two ranks: clipping over gradients that live on different meshes, numbers that all draw alike."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.ranks import start_ranks, wait_for_ranks
from vlmforge.parallel.reduce import clip_grads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reduce")
    wait_for_ranks(start_ranks("tests.parallel.worker_reduce", 2, folder))
    return folder


def read(folder: Path, name: str) -> list[Any]:
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]


def test_what_all_ranks_draw_alike_leaves_each_its_own_numbers(folder: Path) -> None:
    alike, (first, second) = [result["drawn by all"] for result in read(folder, "result")], read(folder, "own")
    assert alike[0] == alike[1]
    assert first != second


def test_the_norm_over_mixed_meshes_is_that_of_the_full_gradients(folder: Path) -> None:
    results = read(folder, "result")
    assert results[0] == results[1]
    assert results[0]["norm"] == pytest.approx(results[0]["expected"], rel=1e-6)
    assert results[0]["after"] == pytest.approx(1.5, rel=1e-5)
    assert results[0]["sums"] == [3.0, 1.0]
    assert results[0]["any"] == [True, False]


def test_the_norm_of_a_large_matrix_is_not_lost_in_rounding() -> None:
    # torch's own norm is 7e-5 off here.
    parameter = nn.Parameter(torch.zeros(2**22 + 5))
    torch.manual_seed(0)
    parameter.grad = torch.randn(2**22 + 5)
    assert clip_grads([parameter], None).item() == pytest.approx(parameter.grad.double().norm().item(), rel=2e-7)


def test_a_small_gradient_is_left_as_it_is() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([0.1, 0.2, 0.2])
    assert clip_grads([parameter, nn.Parameter(torch.zeros(1))], 1.0).item() == pytest.approx(0.3)
    assert torch.equal(parameter.grad, torch.tensor([0.1, 0.2, 0.2]))
    assert clip_grads([parameter], None).item() == pytest.approx(0.3)
