"""From a tower's features to a language model's embeddings: pixel shuffle, then two linear layers."""

# Shapes: N tiles, H rows and W columns of patches, C the tower's width, D the language model's.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN


def pixel_shuffle(features: Tensor, factor: int) -> Tensor:
    """Fold `factor` x `factor` neighbours into one cell, row by row ("v2" of InternVL).

    Args:
        features: `[N, H, W, C]`.
        factor: 2 in all published models.

    Returns:
        `[N, H / factor, W / factor, factor^2 C]`; of a cell (0, 0), the first C values are those of (0, 0), then come
        (0, 1), (1, 0) and (1, 1).
    """
    tiles, rows, columns, width = features.shape
    cells = features.view(tiles, rows // factor, factor, columns // factor, factor, width)
    return cells.transpose(2, 3).reshape(tiles, rows // factor, columns // factor, factor * factor * width)


class ProjectorRMSNorm(nn.Module):
    """Llama's norm: divided in float32, rounded, then multiplied."""

    def __init__(self, width: int, eps: float) -> None:
        """With a weight of ones."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Of the same shape and type."""
        wide = hidden_states.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * normed.to(hidden_states.dtype)


class Projector(nn.Module):
    """`linear_2(act(linear_1(norm(x))))`."""

    def __init__(self, config: Any) -> None:
        """As a `StitchedConfig` says."""
        super().__init__()
        width = config.vision_config.hidden_size * round(1 / config.downsample_ratio) ** 2
        norms = {
            "layer_norm": lambda: nn.LayerNorm(width, eps=config.projector_norm_eps),
            "rms_norm": lambda: ProjectorRMSNorm(width, config.projector_norm_eps),
            "none": nn.Identity,
        }
        self.norm = norms[config.projector_norm]()
        self.linear_1 = nn.Linear(width, config.projector_hidden_size, bias=config.projector_bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(
            config.projector_hidden_size, config.get_text_config().hidden_size, bias=config.projector_bias
        )

    def forward(self, features: Tensor) -> Tensor:
        """`[N, tokens, D]` from `[N, tokens, factor^2 C]`."""
        return self.linear_2(self.act(self.linear_1(self.norm(features))))
