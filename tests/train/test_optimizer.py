"""What decays and what does not."""

import pytest
import torch
from torch import nn

from vlmforge.config.schema import OptimizerConfig
from vlmforge.train.optimizer import build_optimizer


@pytest.mark.parametrize(("decay", "expected"), [("all", {"weight", "bias", "norm"}), ("matrices", {"weight"})])
def test_a_zero_gradient_shrinks_exactly_what_decays(decay: str, expected: set[str]) -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 3), "norm": nn.LayerNorm(3, bias=False)})
    named = {"weight": model["linear"].weight, "bias": model["linear"].bias, "norm": model["norm"].weight}
    for parameter in named.values():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, OptimizerConfig(lr=0.1, weight_decay=0.5, decay=decay)).step()  # type: ignore[arg-type]
    assert {name for name, parameter in named.items() if parameter.max() < 1} == expected


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerConfig())
    assert [p for group in optimizer.param_groups for p in group["params"]] == [model.weight]
