"""From a checkpoint, or a recipe, to a model that generates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from vlmforge.checkpoint.store import SafetensorsReader, read_state
from vlmforge.config.schema import Config, ModelConfig
from vlmforge.data.images import ImageRule
from vlmforge.data.render import find_end_marker
from vlmforge.errors import CheckpointError, Problem
from vlmforge.generate.find import Checkpoint
from vlmforge.models.adapters import load_peft_model, read_adapter_config
from vlmforge.models.build import TORCH_DTYPES, auto_class, build_on_meta, cast_model, materialise
from vlmforge.models.hub import fetch_folder
from vlmforge.models.images import PROCESSOR_FILES, build_image_processor, build_image_rule, derive_image_rule
from vlmforge.models.shape import plain_attention
from vlmforge.models.stated import read_config
from vlmforge.models.stitched_files import LAYOUTS
from vlmforge.models.tokenizer import build_tokenizer, load_tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to generate.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: its tokenizer.
        stop_ids: token ids that end an answer.
        image_rule: how it sees pictures; None: it takes text only.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]
    image_rule: ImageRule | None = None


def load_checkpoint(checkpoint: Checkpoint, config: Config, device: torch.device) -> LoadedModel:
    """Load a checkpoint for generation, in `parallelism.param_dtype`.

    Args:
        checkpoint: see `find_checkpoint`.
        config: the run's recipe, or a default one; its model says what to build for a step folder.
        device: where the model goes.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    dtype = TORCH_DTYPES[config.parallelism.param_dtype]
    trust = config.model.trust_remote_code
    if checkpoint.kind == "step":
        model, tokenizer = _load_step(Path(checkpoint.path), config, device)
        cast_model(model, dtype)
        rule = build_image_rule(config.model, tokenizer)
    else:
        revision = _revision_of(checkpoint, config)
        folder = fetch_folder(checkpoint.path, revision=revision, key="checkpoint")
        model, tokenizer, rule = _load_folder(folder, dtype, trust)
    return _ready(model, tokenizer, rule, device)


def _revision_of(checkpoint: Checkpoint, config: Config) -> str | None:
    """The revision of a hub id: the recipe's, if it is the recipe's model that is asked for."""
    is_meant = checkpoint.kind == "hub" and config.model.pretrained in (None, checkpoint.path)
    return config.model.revision if is_meant else None


def load_recipe_model(config: Config, device: torch.device) -> LoadedModel:
    """The model that a recipe starts from: its pretrained weights, or random ones."""
    model = build_on_meta(config)
    materialise(model, config, device, SafetensorsReader())
    cast_model(model, TORCH_DTYPES[config.parallelism.param_dtype])
    tokenizer = build_tokenizer(config.model)
    return _ready(model, tokenizer, build_image_rule(config.model, tokenizer), device)


def _ready(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rule: ImageRule | None, device: torch.device
) -> LoadedModel:
    model.set_attn_implementation(plain_attention(model.config))
    model.to(device)  # pyright: ignore[reportArgumentType]  # the stub of `to` names other overloads
    model.eval()
    return LoadedModel(model, tokenizer, stop_ids(model, tokenizer), rule)


def _load_step(folder: Path, config: Config, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    read_state(folder)
    model = build_on_meta(config)
    reader = SafetensorsReader()
    materialise(model, config, device, reader)
    trained = {f"model.{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}
    reader.read(folder, trained)
    return model, build_tokenizer(config.model)


def _load_folder(
    folder: Path, dtype: torch.dtype, trust: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, ImageRule | None]:
    is_adapter = (folder / "adapter_config.json").is_file()
    base = folder
    if is_adapter:
        base = _fetch_base(folder)
    _refuse_published(base)
    # Its progress bar counts tensors, line by line in a log.
    transformers_logging.disable_progress_bar()
    try:
        shape = AutoConfig.from_pretrained(base, trust_remote_code=trust)
        attention = plain_attention(shape)
        model: Any = auto_class(shape).from_pretrained(
            base, dtype=dtype, trust_remote_code=trust, use_safetensors=True, attn_implementation=attention
        )
        if is_adapter:
            model = load_peft_model(model, folder)
            cast_model(model, dtype)
    except (OSError, ValueError, KeyError) as error:
        problem = Problem(
            f"{folder} cannot be loaded: {str(error).splitlines()[0]}",
            str(folder),
            "give a folder that plain transformers (or peft) loads",
        )
        raise CheckpointError(problem) from error
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    tokenizer = load_tokenizer(folder if has_tokenizer else base, trust)
    # An adapter's folder has the budget that it was trained with.
    has_processor = any((folder / name).is_file() for name in PROCESSOR_FILES)
    rule = None
    if auto_class(shape) is AutoModelForImageTextToText:
        processor = build_image_processor(ModelConfig(pretrained=str(folder if has_processor else base)), shape)
        rule = derive_image_rule(shape, processor, tokenizer, ModelConfig().image.num_frames)
    return model, tokenizer, rule


def _refuse_published(folder: Path) -> None:
    """The files of a published stitched model belong to code beside them, which is not run."""
    kind = read_config(folder, "checkpoint").get("model_type")
    if kind in [layout.model_type for layout in LAYOUTS.values()]:
        problem = Problem(
            f"checkpoint = {folder} has the files of a published {kind}, which plain transformers does not read",
            str(folder / "config.json"),
            f"vlmforge convert checkpoint={folder} recipe=RECIPE output=FOLDER, with the recipe of such a model; then "
            "checkpoint=FOLDER",
        )
        raise CheckpointError(problem)


def _fetch_base(adapter: Path) -> Path:
    """The folder of the model that a PEFT folder belongs to."""
    stored = read_adapter_config(adapter)
    base = stored.get("base_model_name_or_path")
    if not base:
        problem = Problem(
            f"{adapter / 'adapter_config.json'} does not say which model the adapter belongs to",
            str(adapter),
            "write the folder or hub id of the base model to base_model_name_or_path there",
        )
        raise CheckpointError(problem)
    key = f"base_model_name_or_path of {adapter / 'adapter_config.json'}"
    return fetch_folder(str(base), revision=stored.get("revision"), key=key)


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every id that ends an answer: the model's own eos ids, the tokenizer's, and the template's end of turn."""
    ids: list[int] = []
    generation = model.generation_config
    own: Any = generation.eos_token_id if generation is not None else None
    ids += own if isinstance(own, list) else [own] if own is not None else []
    if tokenizer.eos_token_id is not None:
        ids.append(int(tokenizer.eos_token_id))  # pyright: ignore[reportArgumentType]  # one token, so one id
    marker = find_end_marker(tokenizer)
    if marker is not None:
        ids.append(tokenizer.get_vocab()[marker])
    return tuple(dict.fromkeys(ids))
