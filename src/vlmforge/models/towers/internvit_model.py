"""InternViT: blocks with layer scale, and norms over all real heads of the queries and of the keys.

The tower of 6B parameters has 25 heads, which ranks of tensor parallelism cannot share. Heads of zeros fill them up;
what they give is zero, and the norms neither sum nor count them.
"""

# Shapes: N tiles, T tokens, C width, H heads with dummies, D head_dim.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vlmforge.models.projector_model import ProjectorRMSNorm
from vlmforge.models.stitched_config import InternVitConfig


class InternVitEmbeddings(nn.Module):
    """Patches behind a class token, with a learned place for each."""

    def __init__(self, config: InternVitConfig) -> None:
        """With a bias in the patches' convolution."""
        super().__init__()
        size, width = config.patch_size, config.hidden_size
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, kernel_size=size, stride=size)
        num_patches = (config.image_size // size) ** 2
        self.position_embedding = nn.Parameter(torch.zeros(1, num_patches + 1, width))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[N, T, C]`."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(patches), -1, -1), patches], dim=1)
        return tokens + self.position_embedding


class HeadsNorm(nn.Module):
    """RMS norm over the real heads together; dummy heads are zero and stay so."""

    def __init__(self, num_real: int, num_dummy: int, eps: float) -> None:
        """Take widths, not numbers of heads."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_real + num_dummy))
        self.num_real = num_real
        self.variance_epsilon = eps

    def forward(self, heads: Tensor) -> Tensor:
        """Of the same shape `[N, T, H D]` and type."""
        wide = heads.float()
        variance = wide[..., : self.num_real].square().sum(-1, keepdim=True) / self.num_real
        return (wide * torch.rsqrt(variance + self.variance_epsilon)).to(heads.dtype) * self.weight


class PaddedLinear(nn.Linear):
    """A linear layer whose last outputs, or inputs, belong to dummy heads and are drawn as zeros."""

    num_dummy_outputs = 0
    num_dummy_inputs = 0

    def clear_dummies(self) -> None:
        """Set them to zero, in place."""
        outputs, inputs = self.weight.shape
        with torch.no_grad():
            self.weight[outputs - self.num_dummy_outputs :] = 0
            self.weight[:, inputs - self.num_dummy_inputs :] = 0


class InternVitAttention(nn.Module):
    """Every token of a tile sees every other."""

    def __init__(self, config: InternVitConfig) -> None:
        """With queries, keys and values apart; the published files hold them as one matrix."""
        super().__init__()
        assert config.head_dim is not None, "the config derives it"
        self.config = config
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.num_real_heads = config.num_attention_heads
        self.num_dummy = config.num_dummy_heads * self.head_dim
        width, num_real = config.hidden_size, config.num_attention_heads * self.head_dim
        num_dummy = self.num_dummy
        self.q_proj = PaddedLinear(width, num_real + num_dummy, bias=config.qkv_bias)
        self.k_proj = PaddedLinear(width, num_real + num_dummy, bias=config.qkv_bias)
        self.v_proj = PaddedLinear(width, num_real + num_dummy, bias=config.qkv_bias)
        for linear in (self.q_proj, self.k_proj, self.v_proj):
            linear.num_dummy_outputs = num_dummy
        self.proj = PaddedLinear(num_real + num_dummy, width)
        self.proj.num_dummy_inputs = num_dummy
        eps = config.layer_norm_eps
        self.q_norm = HeadsNorm(num_real, num_dummy, eps) if config.use_qk_norm else nn.Identity()
        self.k_norm = HeadsNorm(num_real, num_dummy, eps) if config.use_qk_norm else nn.Identity()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[N, T, C]`."""
        queries = self._split(self.q_norm(self.q_proj(hidden_states)))
        keys = self._split(self.k_norm(self.k_proj(hidden_states)))
        values = self._split(self.v_proj(hidden_states))
        attend: Any = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation or "eager", _eager)
        dropout = self.config.attention_dropout if self.training else 0.0
        output, _ = attend(self, queries, keys, values, None, dropout=dropout, scaling=self.scaling, is_causal=False)
        output = output.reshape(*hidden_states.shape[:-1], -1)
        # What dummy heads give is zero whatever is in them, also with an adapter.
        return self.proj(nn.functional.pad(output, (0, self.num_dummy)))

    def _split(self, flat: Tensor) -> Tensor:
        """`[N, real heads, T, D]` of `[N, T, H D]`."""
        return flat.unflatten(-1, (-1, self.head_dim))[:, :, : self.num_real_heads].transpose(1, 2)


def _eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    weights = torch.softmax(query @ key.transpose(2, 3) * scaling, dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class InternVitMLP(nn.Module):
    """Two linear layers."""

    def __init__(self, config: InternVitConfig) -> None:
        """With biases."""
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[N, T, C]`."""
        return self.fc2(self.act(self.fc1(hidden_states)))


class InternVitLayer(GradientCheckpointingLayer):
    """Attention and MLP, each behind a norm and scaled by a vector before it is added."""

    def __init__(self, config: InternVitConfig) -> None:
        """Of norms, `norm_type` says the kind."""
        super().__init__()
        kind = {"layer_norm": nn.LayerNorm, "rms_norm": ProjectorRMSNorm}[config.norm_type]
        self.norm1 = kind(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = InternVitAttention(config)
        self.ls1 = nn.Parameter(config.layer_scale_init_value * torch.ones(config.hidden_size))
        self.norm2 = kind(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = InternVitMLP(config)
        self.ls2 = nn.Parameter(config.layer_scale_init_value * torch.ones(config.hidden_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[N, T, C]`."""
        hidden_states = hidden_states + self.attn(self.norm1(hidden_states)) * self.ls1
        return hidden_states + self.mlp(self.norm2(hidden_states)) * self.ls2


class InternVitEncoder(nn.Module):
    """The blocks."""

    def __init__(self, config: InternVitConfig) -> None:
        """Nothing besides."""
        super().__init__()
        self.layers = nn.ModuleList([InternVitLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[N, T, C]`."""
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class InternVitTower(PreTrainedModel):
    """`[tiles, 1 + patches, width]` from pixels; no norm follows the last block."""

    config: InternVitConfig
    config_class = InternVitConfig
    base_model_prefix = "internvit"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["InternVitLayer"]  # noqa: RUF012  # transformers' own declaration
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _input_embed_layer = "patch_embedding"

    def __init__(self, config: InternVitConfig) -> None:
        """As its config says."""
        super().__init__(config)
        self.embeddings = InternVitEmbeddings(config)
        self.encoder = InternVitEncoder(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, InternVitEmbeddings):
            init.normal_(module.class_embedding, std=self.config.initializer_range)
            init.normal_(module.position_embedding, std=self.config.initializer_range)
        elif isinstance(module, InternVitLayer):
            init.constant_(module.ls1, self.config.layer_scale_init_value)
            init.constant_(module.ls2, self.config.layer_scale_init_value)
        elif isinstance(module, HeadsNorm):
            init.ones_(module.weight)
        elif isinstance(module, PaddedLinear):
            module.clear_dummies()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        """The class token, then the patches row by row."""
        return self.encoder(self.embeddings(pixel_values.to(self.embeddings.patch_embedding.weight.dtype)))
