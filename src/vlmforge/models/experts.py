"""The layers with experts of the families that have them, over the ranks that hold the experts."""

# Shapes: T tokens, D hidden, N rows of one rank's experts, E experts of a rank, I intermediate.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe

from vlmforge.parallel.experts import ExpertRanks
from vlmforge.parallel.tensor import local_parameters, place


def shard_experts(block: nn.Module, experts: nn.Module, ranks: ExpertRanks) -> None:
    """Give each rank some of the experts whole, and change what calls them, in place; on meta.

    Args:
        block: the layer's MLP with router and experts, whose forward Llama 4 needs changed too: it sends every token
            through every expert.
        experts: its experts, `gate_up_proj` and `down_proj` with the experts first.
        ranks: that share them.
    """
    num_local = experts.get_parameter("down_proj").shape[0] // ranks.placement.size()
    place(experts, {"gate_up_proj": 0, "down_proj": 0}, ranks.placement)
    is_llama4 = isinstance(block, Llama4TextMoe)
    run = _run_llama4(experts) if is_llama4 else _run_each(experts, num_local)

    def forward(hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        with local_parameters(experts):
            return ranks.spread(hidden, index, weights, run, num_local=num_local, weighs_inputs=is_llama4)

    experts.forward = forward
    if is_llama4:
        # Through `vars`: a forward of another signature is no assignment that a type checker likes.
        vars(block)["forward"] = _route_llama4(block)


def _run_each(experts: Any, num_local: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The experts' own forward, each row a token with one expert of weight 1."""
    inner = experts.forward

    def run(rows: Tensor, expert: Tensor) -> Tensor:
        # Without rows the experts take part all the same, with a gradient of zero: the others wait for it.
        nothing = 0.0 * (experts.gate_up_proj[0, 0, 0] + experts.down_proj[0, 0, 0])
        if len(rows) == 0:
            return rows + nothing
        total, experts.num_experts = experts.num_experts, num_local
        try:
            ones = torch.ones_like(expert, dtype=rows.dtype)
            return inner(rows, expert.unsqueeze(-1), ones.unsqueeze(-1)) + nothing
        finally:
            experts.num_experts = total

    return run


def _run_llama4(experts: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """One product for each expert, on the rows that are for it."""

    def run(rows: Tensor, expert: Tensor) -> Tensor:
        order = torch.argsort(expert, stable=True)
        num_local = experts.down_proj.shape[0]
        counts = torch.bincount(expert, minlength=num_local).tolist()
        answers = []
        for index, part in enumerate(rows[order].split(counts)):
            gate, up = (part @ experts.gate_up_proj[index]).chunk(2, dim=-1)
            answers.append((up * experts.act_fn(gate)) @ experts.down_proj[index])
        return torch.cat(answers)[torch.argsort(order)]

    return run


def _route_llama4(block: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def forward(hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        hidden = hidden_states.reshape(-1, block.hidden_dim)
        # Zero but for the experts that a token goes to.
        scores, logits = block.router(hidden)
        weights, index = torch.topk(scores, block.top_k, dim=-1)
        return block.shared_expert(hidden) + block.experts(hidden, index, weights), logits

    return forward
