"""A vision tower, a projector and a language model as one transformers model.

Importing this file makes `AutoModel`, `AutoModelForImageTextToText` and `AutoProcessor` know it, so that plain
transformers code loads, generates with and saves a stitched model as any other.
"""

# Shapes: B rows, S tokens, N tiles, D the language model's width.

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageTextToText, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast

from vlmforge.models.projector_model import Projector, pixel_shuffle
from vlmforge.models.stitched_config import StitchedConfig
from vlmforge.models.stitched_processor import StitchedProcessor as StitchedProcessor  # makes AutoProcessor know it
from vlmforge.models.towers.clip_model import ClipTower
from vlmforge.models.towers.internvit_model import InternVitTower
from vlmforge.models.towers.radio_model import RadioTower
from vlmforge.models.towers.siglip_model import SiglipTower

# By the `model_type` of their configs; a test holds them to `towers.TOWERS`.
_CLASSES: tuple[Any, ...] = (ClipTower, SiglipTower, InternVitTower, RadioTower)
TOWER_CLASSES: Mapping[str, Any] = {tower.config_class.model_type: tower for tower in _CLASSES}


class StitchedPreTrainedModel(PreTrainedModel):
    """What transformers is told of all classes of this file."""

    config: StitchedConfig
    config_class = StitchedConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012  # transformers' own declaration


class StitchedModel(StitchedPreTrainedModel):
    """Tower, projector and language model without its output head."""

    def __init__(self, config: StitchedConfig) -> None:
        """As the config says."""
        super().__init__(config)
        tower: Any = config.vision_config
        self.vision_tower = TOWER_CLASSES[tower.model_type]._from_config(tower)
        self.projector = Projector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        # Training may give it one, see `embed_cache.py`.
        self.embed_cache: Any = None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Of the language model."""
        self.language_model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Embeddings of tiles.

        Args:
            pixel_values: `[N, 3, height, width]`, normalised.
            kwargs: not used.

        Returns:
            `pooler_output` `[N, tokens of a tile, D]`, and what the tower gave.
        """
        see = self.vision_tower if self.embed_cache is None else partial(self.embed_cache.see, self.vision_tower)
        seen: Tensor = see(pixel_values)
        num_prefix = self.config.num_prefix_tokens
        features = seen[:, num_prefix:] if self.config.drop_class_tokens else seen
        factor = round(1 / self.config.downsample_ratio)
        if factor > 1:
            size = self.config.vision_config.patch_size
            grid = [side // size for side in pixel_values.shape[-2:]]
            features = pixel_shuffle(features.unflatten(1, grid), factor).flatten(1, 2)
        return BaseModelOutputWithPooling(last_hidden_state=seen, pooler_output=self.projector(features))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states `[B, S, D]`; tiles stand in order where `input_ids` has the image token.

        What else there is, masks, positions and a cache, the language model takes.

        Raises:
            ValueError: there are more or fewer image tokens than embeddings of tiles, or tiles beside `inputs_embeds`,
                which say no places for them.
        """
        if inputs_embeds is not None and pixel_values is not None:
            raise ValueError("pixel_values need input_ids, which say where they stand, and not inputs_embeds")
        if inputs_embeds is None:
            assert input_ids is not None, "input_ids or inputs_embeds"
            is_image = input_ids == self.config.image_token_id
            # The image token may lie beyond the table (Yi): it is looked up as another and replaced.
            embedded: Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
            inputs_embeds = embedded
            if pixel_values is not None:
                features: Any = self.get_image_features(pixel_values).pooler_output
                embeds = features.flatten(0, 1)
                _check_count(int(is_image.sum()), len(embeds))
                inputs_embeds = embedded.masked_scatter(is_image.unsqueeze(-1), embeds.to(embedded.dtype))
        return self.language_model(inputs_embeds=inputs_embeds, **kwargs)


def _check_count(num_tokens: int, num_embeds: int) -> None:
    if num_tokens != num_embeds:
        raise ValueError(f"there are {num_tokens} image tokens for {num_embeds} embeddings of tiles")


class StitchedForConditionalGeneration(StitchedPreTrainedModel, GenerationMixin):
    """A stitched model that answers."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: StitchedConfig) -> None:
        """As the config says."""
        super().__init__(config)
        text = config.get_text_config()
        self.model = StitchedModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Of the language model."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The output head."""
        return self.lm_head

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `StitchedModel`."""
        return self.model.get_image_features(pixel_values)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits `[B, S, vocabulary]`, and the loss where `labels` are given."""
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        if isinstance(logits_to_keep, Tensor):
            kept = logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        # Of Gemma 3.
        cap = getattr(self.config.get_text_config(), "final_logit_softcapping", None)
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)


AutoModel.register(StitchedConfig, StitchedModel, exist_ok=True)
AutoModelForImageTextToText.register(StitchedConfig, StitchedForConditionalGeneration, exist_ok=True)
