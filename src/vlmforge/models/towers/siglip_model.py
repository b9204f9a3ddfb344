"""SigLIP as a tower: all tokens, behind its last norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers import initialization as init
from transformers.models.siglip.modeling_siglip import SiglipPreTrainedModel, SiglipVisionEmbeddings


class SiglipTower(SiglipVisionModel):
    """`[tiles, patches, width]` from pixels."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        """Without the pooling head."""
        super().__init__(config)
        self.use_head = False
        if config.vision_use_head:
            del self.head

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers draws a module's children with it; here each module is drawn by itself.
        if isinstance(module, SiglipVisionEmbeddings):
            init.copy_(module.position_ids, torch.arange(module.num_positions).expand((1, -1)))
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            init.lecun_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super(SiglipPreTrainedModel, self)._init_weights(module)

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The patches row by row."""
        output: Any = super().forward(pixel_values)
        return output.last_hidden_state
