"""Clipping over gradients that live on different meshes, on two ranks."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.ranks import start_ranks, wait_for_ranks
from vlmforge.parallel.reduce import clip_grads


def test_the_norm_over_mixed_meshes_is_that_of_the_full_gradients(tmp_path: Path) -> None:
    wait_for_ranks(start_ranks("tests.parallel.worker_reduce", 2, tmp_path))
    results = [json.loads((tmp_path / f"result-{rank}.json").read_text()) for rank in range(2)]
    assert results[0] == results[1]
    assert results[0]["norm"] == pytest.approx(results[0]["expected"], rel=1e-6)
    assert results[0]["after"] == pytest.approx(1.5, rel=1e-5)
    assert results[0]["sums"] == [3.0, 1.0]
    assert results[0]["any"] == [True, False]


def test_a_small_gradient_is_left_as_it_is() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([0.1, 0.2, 0.2])
    assert clip_grads([parameter, nn.Parameter(torch.zeros(1))], 1.0).item() == pytest.approx(0.3)
    assert torch.equal(parameter.grad, torch.tensor([0.1, 0.2, 0.2]))
    assert clip_grads([parameter], None).item() == pytest.approx(0.3)
