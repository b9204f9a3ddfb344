"""Batched generation: prompts as token ids in, text out, by transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig as HfGenerationConfig
from transformers import TextStreamer

from vlmforge.config.schema import GenerationConfig
from vlmforge.data.images import make_span_tensors
from vlmforge.data.prompt import Prompt
from vlmforge.errors import DataError, Problem
from vlmforge.generate.load import LoadedModel


def build_streamer(loaded: LoadedModel) -> TextStreamer:
    """Prints tokens to standard output as they come."""
    return TextStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)


def generate_texts(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    settings: GenerationConfig,
    streamer: TextStreamer | None = None,
    names: Sequence[str] | None = None,
    num_before: int = 0,
) -> Iterator[str]:
    """The answers in the order of the prompts, `settings.batch_size` prompts at a time.

    Args:
        loaded: the model.
        prompts: tokens, chat template and generation prompt included, with their pictures.
        settings: length, sampling, seed.
        streamer: shows tokens as they come; only with one prompt.
        names: where each prompt stands, for messages; None: counted from 1.
        num_before: prompts of the same job that were answered before these, so that sampling does not repeat itself.

    Raises:
        DataError: a prompt with its answer does not fit the model's positions, or a picture cannot be decoded.
    """
    _check_lengths(loaded, prompts, settings, names or [f"prompt {number + 1}" for number in range(len(prompts))])
    for start in range(0, len(prompts), settings.batch_size):
        # A prime apart: the CPU's generator looks at the lowest 32 bits of a seed only.
        torch.manual_seed((settings.seed * 1_000_003 + num_before + start) % 2**32)
        yield from _generate_batch(loaded, prompts[start : start + settings.batch_size], settings, streamer)


def _generate_batch(
    loaded: LoadedModel, prompts: Sequence[Prompt], settings: GenerationConfig, streamer: TextStreamer | None
) -> list[str]:
    pad = _pad_id(loaded)
    longest = max(len(prompt.ids) for prompt in prompts)
    device = loaded.model.device
    # Padded on the left, so that every answer begins at the same position; masked by length, never by `== pad`.
    input_ids = torch.tensor([[pad] * (longest - len(p.ids)) + list(p.ids) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in prompts], device=device)
    with torch.inference_mode():
        generate: Any = loaded.model.generate
        output = generate(
            input_ids=input_ids,
            attention_mask=mask,
            generation_config=_hf_settings(loaded, settings, pad),
            streamer=streamer,
            **_image_inputs(loaded, prompts, input_ids),
        )
    return [_decode(loaded, ids) for ids in output[:, longest:].tolist()]


def _image_inputs(loaded: LoadedModel, prompts: Sequence[Prompt], input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What `generate` takes besides text: the pictures of all prompts in order."""
    spans = [span for prompt in prompts for span in prompt.images]
    if not spans:
        return {}
    assert loaded.image_rule is not None, "pictures for a model that takes none"
    made = make_span_tensors(spans, loaded.image_rule)
    assert made is not None, "there are pictures"
    images = made.to(loaded.model.device)
    inputs = {"pixel_values": images.pixel_values}
    if images.image_grid_thw is not None:
        # Positions in three parts are made from which tokens are a picture's.
        is_image = input_ids == loaded.image_rule.placeholder_id
        inputs |= {"image_grid_thw": images.image_grid_thw, "mm_token_type_ids": is_image.int()}
    return inputs


def _decode(loaded: LoadedModel, ids: list[int]) -> str:
    """Text up to the first stop token; what follows it is padding."""
    end = next((index for index, token in enumerate(ids) if token in loaded.stop_ids), len(ids))
    text = loaded.tokenizer.decode(ids[:end], skip_special_tokens=True)
    assert isinstance(text, str)
    return text


def _hf_settings(loaded: LoadedModel, settings: GenerationConfig, pad: int) -> HfGenerationConfig:
    sampling: dict[str, Any] = {"do_sample": False}
    if settings.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
        }
    return HfGenerationConfig(
        max_new_tokens=settings.max_new_tokens, eos_token_id=list(loaded.stop_ids), pad_token_id=pad, **sampling
    )


def _pad_id(loaded: LoadedModel) -> int:
    pad = loaded.tokenizer.pad_token_id
    return pad if isinstance(pad, int) else loaded.stop_ids[0] if loaded.stop_ids else 0


def _check_lengths(
    loaded: LoadedModel, prompts: Sequence[Prompt], settings: GenerationConfig, names: Sequence[str]
) -> None:
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    problems = [
        Problem(
            f"the prompt has {len(prompt.ids)} tokens; with max_new_tokens = {settings.max_new_tokens} that is more "
            f"than the model's max_position_embeddings = {limit}",
            name,
            "shorten the prompt, or lower stage.generation.max_new_tokens",
        )
        for name, prompt in zip(names, prompts, strict=True)
        if limit is not None and len(prompt.ids) + settings.max_new_tokens > limit
    ]
    if problems:
        raise DataError(problems)
