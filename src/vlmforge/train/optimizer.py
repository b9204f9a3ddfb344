"""AdamW with decay groups, and its state as named tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vlmforge.config.schema import OptimizerConfig
from vlmforge.parallel.shard import group_by_mesh

MOMENTS = ("exp_avg", "exp_avg_sq")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """AdamW over the trained parameters, those that decay and those that do not in a group each."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decays = [p for p in trained if config.decay == "all" or p.ndim >= 2]
    rest = [p for p in trained if config.decay != "all" and p.ndim < 2]
    groups = [
        {"params": parameters, "weight_decay": decay}
        for some, decay in ((decays, config.weight_decay), (rest, 0.0))
        for parameters in group_by_mesh(some)
    ]
    optimizer = AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    reset_state(optimizer, num_updates=0)
    return optimizer


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Use this learning rate in the next update."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def reset_state(optimizer: Optimizer, num_updates: int) -> None:
    """Give every parameter the state of an optimizer that has made `num_updates`, moments still zero.

    AdamW makes its state in the first update. Here it exists from the start: a run can be saved before its first
    step, a resumed one has tensors to load into, and memory that is not there is missed at once.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(num_updates), device=parameter.device),
                **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
            }


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The moments, named after their parameter: `optimizer.exp_avg.<parameter>`."""
    return {
        f"optimizer.{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for moment in MOMENTS
    }
