"""The transformers config of stitched models and of InternViT; importing it makes `AutoConfig` know both."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, RadioConfig
from transformers.configuration_utils import SubConfigSpec

from vlmforge.models.projectors import PROJECTORS
from vlmforge.models.towers import TOWERS


@strict
class InternVitConfig(PreTrainedConfig):
    """InternViT's shape.

    `num_dummy_heads` heads of zeros follow the `num_attention_heads` real ones, so that ranks of tensor parallelism
    have equally many.
    """

    model_type = "vlmforge_internvit"
    base_config_key = "vision_config"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_dummy_heads: int = 0
    head_dim: int | None = None
    num_channels: int = 3
    image_size: int = 448
    patch_size: int = 14
    hidden_act: str = "gelu"
    norm_type: str = "layer_norm"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    use_qk_norm: bool = False
    attention_dropout: float | int = 0.0
    layer_scale_init_value: float | int = 0.1
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive what is not said."""
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)


@strict
class RadioTowerConfig(RadioConfig):
    """transformers' config of RADIO under a name of ours: to its own belong names of tensors in files that we read.

    `crops_positions`: in training a patch's place is drawn at random.
    """

    model_type = "vlmforge_radio"
    base_config_key = "vision_config"

    crops_positions: bool = True


@strict
class StitchedConfig(PreTrainedConfig):
    """A tower, a projector and a language model.

    `downsample_ratio` 0.5 folds 2 x 2 patches into a token, 1.0 folds none. What `projector_type` fills in is written
    out in full, so that a saved config does not depend on the table.

    `initializer_range` is the deviation of the projector's matrices and of new rows of tables, the language model's
    unless it is said. `published` is the config.json of the published model that this one was read from.
    """

    model_type = "vlmforge_stitched"
    sub_configs_defaults = {  # noqa: RUF012  # transformers' own declaration
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
    }

    text_config: Any = None
    vision_config: Any = None
    image_token_id: int = 0
    downsample_ratio: float = 0.5
    drop_class_tokens: bool = True
    projector_type: str = "hf"
    projector_hidden_size: int | None = None
    projector_norm: str | None = None
    projector_norm_eps: float | None = None
    projector_bias: bool | None = None
    projector_hidden_act: str = "gelu"
    initializer_range: float | int | None = None
    published: Any = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what the projector's type says."""
        super().__post_init__(**kwargs)
        defaults, text = PROJECTORS[self.projector_type], self.get_text_config()
        inherits = defaults.norm == "inherit"
        if self.projector_norm is None:
            self.projector_norm = "rms_norm" if inherits else defaults.norm
        if self.projector_norm_eps is None:
            self.projector_norm_eps = defaults.eps if defaults.eps is not None else text.rms_norm_eps
        if self.projector_bias is None:
            self.projector_bias = defaults.bias
        if self.projector_hidden_size is None:
            self.projector_hidden_size = defaults.hidden_size or text.hidden_size
        if self.initializer_range is None:
            self.initializer_range = text.initializer_range

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens that the tower gives before those of the patches."""
        counted = TOWERS[self.vision_config.model_type].num_prefix_tokens
        if isinstance(counted, int):
            return counted
        return sum(getattr(self.vision_config, name) for name in counted)

    @property
    def image_seq_length(self) -> int:
        """Tokens of a tile."""
        side = round(self.vision_config.image_size // self.vision_config.patch_size * self.downsample_ratio)
        return side * side + (0 if self.drop_class_tokens else self.num_prefix_tokens)


AutoConfig.register(InternVitConfig.model_type, InternVitConfig, exist_ok=True)
AutoConfig.register(RadioTowerConfig.model_type, RadioTowerConfig, exist_ok=True)
AutoConfig.register(StitchedConfig.model_type, StitchedConfig, exist_ok=True)
