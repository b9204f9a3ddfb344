"""What decays and what does not, and how far each group moves."""

import pytest
import torch
from torch import nn

from vlmforge.config.schema import GroupLrConfig, OptimizerConfig
from vlmforge.train.optimizer import build_optimizer, learning_rates, scale_lr


def group_of(name: str) -> str:
    return {"tower": "vision_tower", "projector": "projector"}.get(name.partition(".")[0], "language_model")


@pytest.mark.parametrize(("decay", "expected"), [("all", {"weight", "bias", "norm"}), ("matrices", {"weight"})])
def test_a_zero_gradient_shrinks_exactly_what_decays(decay: str, expected: set[str]) -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 3), "norm": nn.LayerNorm(3, bias=False)})
    named = {"weight": model["linear"].weight, "bias": model["linear"].bias, "norm": model["norm"].weight}
    for parameter in named.values():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    config = OptimizerConfig(lr=0.1, weight_decay=0.5, decay=decay)  # type: ignore[arg-type]
    build_optimizer(model, config, group_of).step()
    assert {name for name, parameter in named.items() if parameter.max() < 1} == expected


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerConfig(), group_of)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [model.weight]


def test_each_group_moves_by_a_rate_of_its_own_on_one_schedule() -> None:
    names = ("tower", "projector", "text")
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in names})
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
        parameter.grad = torch.ones_like(parameter)
    rates = GroupLrConfig(vision_tower=1e-4, projector=1e-2)
    config = OptimizerConfig(lr=1e-3, weight_decay=0.0, group_lr=rates, decay="matrices")
    optimizer = build_optimizer(model, config, group_of)
    scale_lr(optimizer, 0.5)
    optimizer.step()
    # AdamW's first update is the rate itself.
    for name, peak in zip(names, (1e-4, 1e-2, 1e-3), strict=True):
        for parameter in model[name].parameters():
            torch.testing.assert_close(parameter.data, torch.full_like(parameter, -0.5 * peak), rtol=1e-5, atol=0)
    assert learning_rates(config, 0.5) == {"lr": 5e-4, "lr_vision_tower": 5e-5, "lr_projector": 5e-3}
