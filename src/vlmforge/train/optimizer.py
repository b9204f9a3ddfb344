"""AdamW with groups of their own decay and learning rate, and its state as named tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vlmforge.config.schema import OptimizerConfig
from vlmforge.parallel.shard import group_by_mesh

MOMENTS = ("exp_avg", "exp_avg_sq")


def build_optimizer(model: nn.Module, config: OptimizerConfig, group_of: Callable[[str], str]) -> Optimizer:
    """AdamW over the trained parameters, those of one decay and one peak learning rate in a group.

    Args:
        model: sharded or not.
        config: the update rule.
        group_of: a parameter's name in `model` to its group of `stage.optimizer.group_lr`.
    """
    sorts: defaultdict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            peak = getattr(config.group_lr, group_of(name)) or config.lr
            sorts[peak, _decay(name, parameter, config)].append(parameter)
    groups = [
        {"params": parameters, "lr": peak, "peak_lr": peak, "weight_decay": decay}
        for (peak, decay), some in sorts.items()
        for parameters in group_by_mesh(some)
    ]
    optimizer = AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    reset_state(optimizer, num_updates=0)
    return optimizer


def _decay(name: str, parameter: nn.Parameter, config: OptimizerConfig) -> float:
    """Megatron's rule where matrices alone decay: neither vectors nor what is named a bias."""
    is_matrix = parameter.ndim >= 2 and not name.endswith(".bias")
    return config.weight_decay if config.decay == "all" or is_matrix else 0.0


def scale_lr(optimizer: Optimizer, factor: float) -> None:
    """Use this share of each group's peak learning rate in the next update."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def learning_rates(config: OptimizerConfig, factor: float) -> dict[str, float]:
    """A step's rates as metrics name them: `lr`, and `lr_<group>` of each group with a peak of its own."""
    own = {f"lr_{group}": peak * factor for group, peak in asdict(config.group_lr).items() if peak is not None}
    return {"lr": config.lr * factor, **own}


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
