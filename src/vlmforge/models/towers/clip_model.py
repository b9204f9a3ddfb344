"""CLIP as a tower: all tokens of the last block, before the norm that only the pooled token goes through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPPreTrainedModel, CLIPVisionEmbeddings


class ClipTower(CLIPVisionModel):
    """`[tiles, 1 + patches, width]` from pixels."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        """Without the norm behind the pooled token, which nothing here uses."""
        super().__init__(config)
        self.post_layernorm = nn.Identity()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers draws a module's children with it; here each module is drawn by itself.
        if isinstance(module, CLIPVisionEmbeddings):
            init.normal_(module.class_embedding, std=module.embed_dim**-0.5)
            init.copy_(module.position_ids, torch.arange(module.num_positions).expand((1, -1)))
        else:
            super(CLIPPreTrainedModel, self)._init_weights(module)

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The class token, then the patches row by row."""
        output: Any = super().forward(pixel_values)
        return output.last_hidden_state
