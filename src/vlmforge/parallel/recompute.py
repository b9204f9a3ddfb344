"""Recompute: activations thrown away in the forward pass and computed again in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

# What is dear to compute again: matrix products and attention. All else is elementwise.
_KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
}
# Of attention over packed samples: torch's own for a GPU, and ours.
_KEPT_NAMESPACES = {"torch_attn", "vlmforge"}


def _keep_products(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    is_kept = op in _KEPT or getattr(op, "namespace", "") in _KEPT_NAMESPACES
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


def apply_recompute(model: nn.Module, mode: Literal["none", "selective", "full"]) -> None:
    """Make every transformer block of a transformers model recompute, in place.

    Args:
        model: a `PreTrainedModel`, or a module that has `activation_checkpointing_enable` as it does.
        mode: none; selective keeps matrix products and attention; full keeps only what enters a block.
    """
    if mode == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
    enable: Any = model.activation_checkpointing_enable
    enable(options)
