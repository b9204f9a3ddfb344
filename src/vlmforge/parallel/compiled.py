"""Layers compiled by torch.compile, one by one, inside of what shards and around what recomputes them.

The layers of a model are one code with different weights, so that the first one's compilation serves all. Lengths are
symbols from the start: a micro-batch of another length compiles nothing anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

# Variants of one layer: in training and in evaluation, of several kinds in one model. Beyond them torch goes on without
# compiling, and says so.
MOST_VARIANTS = 32


def apply_compile(layers: Sequence[nn.Module], eager: Sequence[nn.Module] = ()) -> None:
    """Compile the forward and backward pass of each layer when it first runs, in place.

    To be called after sharding: its hooks run outside of the compiled code. A module whose forward was replaced stays
    as it is, because it exchanges data with other ranks.

    Args:
        layers: the transformer blocks.
        eager: modules in them that stay as they are.
    """
    # Beside the config that a `torch.compile` of the user's own would see there is no other place for it.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VARIANTS)
    for layer in layers:
        for module in layer.modules():
            if "forward" in vars(module) or module in eager:
                vars(module)["forward"] = torch.compiler.disable(module.forward)
        vars(layer)["forward"] = torch.compile(layer.forward, dynamic=True)
