"""Stitched models made of parts, read from published files, and written as such: whole folders, a file at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from vlmforge.config.schema import Config, ModelConfig
from vlmforge.errors import CheckpointError, ConfigError, Problem, one_of
from vlmforge.models.build import build_on_meta
from vlmforge.models.hub import fetch_folder
from vlmforge.models.images import build_image_rule, save_processor
from vlmforge.models.stitch import Source, TensorFiles, list_tensors, publish, stitch
from vlmforge.models.stitched import STITCHED, TEXT_PATH
from vlmforge.models.stitched_files import (
    LAYOUTS,
    PUBLISHED_TEXT,
    TEXT_PREFIXES,
    Layout,
    Table,
    find_table,
    published_table,
    text_table,
    tower_candidates,
)
from vlmforge.models.stitched_model import TOWER_CLASSES
from vlmforge.models.tokenizer import build_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from vlmforge.data.images import ImageRule

# In the place of a tower's folder.
RANDOM = "random"


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        num_parameters: of the model.
        drawn: names of the tensors that no folder had.
        unused: names of a folder's tensors that the model has no place for.
    """

    num_parameters: int
    drawn: Sequence[str] = ()
    unused: Sequence[str] = ()


def join_parts(model: ModelConfig, tower: str, language_model: str, output: Path, seed: int) -> Converted:
    """Make a stitched model of a tower and a language model; the projector is drawn.

    Args:
        model: its shape, and how it sees; the tokenizer is the language model's unless it names another.
        tower: folder or hub id, or `RANDOM` for one that is drawn.
        language_model: folder or hub id.
        output: folder of the result.
        seed: of what is drawn, and of rows that a table gains.

    Raises:
        ConfigError: the shape is no stitched model's, or the tokenizer does not fit it.
        CheckpointError: a folder lacks a tensor, or has one of another shape.
    """
    text_folder = fetch_folder(language_model, key="language_model")
    model = _without_weights(model, text_folder)
    built, seeing = build_on_meta(Config(model=model)), _prepare(model)
    names = [name for name, _ in built.named_parameters()]
    text_files, shape = list_tensors(text_folder), built.config.vision_config
    sources = _text_sources(names, text_files, text_folder)
    # Of the language model's own; a norm is small.
    dtype = _dtype_of(sources[0], f"{TEXT_PATH}.norm.weight")
    with TemporaryDirectory() as place:
        is_drawn = tower == RANDOM
        folder = _draw_tower(shape, seed, dtype, Path(place)) if is_drawn else fetch_folder(tower, key="tower")
        tower_files = list_tensors(folder)
        seen = _find(tower_candidates(shape.model_type, names), tower_files, folder)
        sources.append(Source(folder, seen))
        drawn = stitch(built, sources, output, seed, dtype)
    if is_drawn:
        drawn = [own for owns in seen.values() for own in owns] + drawn
    used = {name for source in sources for name in source.table}
    _write_rest(built, *seeing, output, dtype)
    count = sum(parameter.numel() for parameter in built.parameters())
    return Converted(count, drawn, sorted((tower_files | text_files) - used))


def read_published(model: ModelConfig, checkpoint: str, output: Path) -> Converted:
    """Make a stitched model of a published one's files.

    Raises:
        ConfigError: the shape is no stitched model's, or no published layout has its tower.
        CheckpointError: the folder lacks a tensor, or has one of another shape.
    """
    folder = fetch_folder(checkpoint, key="checkpoint")
    model = _without_weights(model, folder)
    built, seeing = build_on_meta(Config(model=model)), _prepare(model)
    names = [name for name, _ in built.named_parameters()]
    available = list_tensors(folder)
    layout = _layout_of_tower(built.config.vision_config.model_type)
    table = _find([published_table(layout, names)], available, folder)
    source = Source(folder, table)
    dtype = _dtype_of(source, f"{TEXT_PATH}.norm.weight")
    stitch(built, [source], output, 0, dtype)
    _write_rest(built, *seeing, output, dtype)
    count = sum(parameter.numel() for parameter in built.parameters())
    return Converted(count, (), sorted(available - table.keys() - layout.buffers.keys()))


def write_published(checkpoint: Path, layout_name: str, output: Path) -> Converted:
    """Write a stitched model's folder as a published model's files.

    Raises:
        ConfigError: there is no such layout, or it is for another tower.
        CheckpointError: the folder is no stitched model's.
    """
    if layout_name not in LAYOUTS:
        known = one_of(list(LAYOUTS))
        what = f"layout = {layout_name} is not a layout; there is {known}"
        raise ConfigError(Problem(what, "command line", f"layout={next(iter(LAYOUTS))}"))
    layout = LAYOUTS[layout_name]
    shape = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    tower = getattr(getattr(shape, "vision_config", None), "model_type", None)
    if shape.model_type != STITCHED.model_type or tower != layout.tower:
        what = f"layout = {layout_name} is for stitched models with the tower {layout.tower}, and this has {tower}"
        raise ConfigError(Problem(what, str(checkpoint), "give the export/ of such a model, or another layout"))
    model = ModelConfig(pretrained=str(checkpoint), tokenizer=str(checkpoint))
    names = [name for name, _ in build_on_meta(Config(model=model)).named_parameters()]
    table = published_table(layout, names)
    if shape.tie_word_embeddings:
        # Published models tie nothing: their head is a copy.
        table = {**table, f"{PUBLISHED_TEXT}lm_head.weight": (f"{TEXT_PATH}.embed_tokens.weight",)}
    publish(checkpoint, names, layout_name, table, output)
    config = published_config(layout_name, shape, json.loads((checkpoint / "preprocessor_config.json").read_text()))
    (output / "config.json").write_text(json.dumps(config, indent=2))
    load_tokenizer(checkpoint).save_pretrained(output)
    return Converted(0)


def published_config(layout_name: str, shape: Any, seen: Any) -> dict[str, Any]:
    """The config.json of a published model.

    Args:
        layout_name: of `LAYOUTS`.
        shape: the stitched model's config.
        seen: its preprocessor_config.json.
    """
    tower = shape.vision_config
    common = {
        "downsample_ratio": shape.downsample_ratio,
        "force_image_size": tower.image_size,
        "ps_version": "v2",
        "llm_config": shape.text_config.to_dict(),
        "vision_config": tower.to_dict(),
    }
    if layout_name == "nvlm_d":
        return {
            "architectures": ["NVLM_D"],
            "model_type": "NVLM_D",
            **common,
            "max_dynamic_patch": seen["max_tiles"],
            "min_dynamic_patch": 1,
            "use_thumbnail": seen["thumbnail"],
            "select_layer": -1,
            "template": "chatml",
        }
    return {
        "architectures": ["Llama_Nemotron_Nano_VL"],
        "model_type": "Llama_Nemotron_Nano_VL",
        **common,
        "patch_size": tower.patch_size,
        "vit_hidden_size": tower.hidden_size,
        "projector_hidden_size": shape.projector_hidden_size,
    }


def _draw_tower(shape: Any, seed: int, dtype: torch.dtype, folder: Path) -> Path:
    """A folder of a tower with weights of its class's own drawing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower: Any = TOWER_CLASSES[shape.model_type]._from_config(shape)
    tower.to(dtype).save_pretrained(folder)
    return folder


def _without_weights(model: ModelConfig, folder: Path) -> ModelConfig:
    """The shape alone, with the tokenizer of a folder."""
    if model.family != STITCHED.name:
        what = f"model.family = {model.family}: only stitched models are made of parts"
        raise ConfigError(Problem(what, "model.family", "model=mistral_clip, or another model file of family stitched"))
    return replace(model, pretrained=None, init="random", tokenizer=model.tokenizer or str(folder))


def _find(candidates: Sequence[Table], available: set[str], folder: Path) -> Table:
    """The table that fits a folder; where none does, what the nearest one lacks is told."""
    table = find_table(candidates, available)
    if table is not None:
        return table
    nearest = min(candidates, key=lambda candidate: len(candidate.keys() - available))
    missing = sorted(nearest.keys() - available)
    problem = Problem(
        f"{folder} lacks {len(missing)} tensors of this part, for example {missing[0]}",
        str(folder),
        "give the folder that model.config describes",
    )
    raise CheckpointError(problem)


def _text_sources(names: Sequence[str], available: set[str], folder: Path) -> list[Source]:
    """The language model's tensors; of a tied one the table serves as the head too, where the model ties nothing."""
    candidates = [text_table(names, prefix) for prefix in TEXT_PREFIXES]
    if "lm_head.weight" in names and find_table(candidates, available) is None:
        body = [name for name in names if name != "lm_head.weight"]
        table = _find([text_table(body, prefix) for prefix in TEXT_PREFIXES], available, folder)
        rows = next(file for file, owns in table.items() if owns == (f"{TEXT_PATH}.embed_tokens.weight",))
        return [Source(folder, table), Source(folder, {rows: ("lm_head.weight",)})]
    return [Source(folder, _find(candidates, available, folder))]


def _dtype_of(source: Source, own: str) -> torch.dtype:
    name = next(file for file, owns in source.table.items() if owns == (own,))
    with ExitStack() as stack:
        return TensorFiles(source.folder, stack).read(name).dtype


def _layout_of_tower(tower: str) -> Layout:
    for layout in LAYOUTS.values():
        if layout.tower == tower:
            return layout
    known = one_of([layout.tower for layout in LAYOUTS.values()])
    what = f"no published layout has the tower {tower}; there are some for {known}"
    raise ConfigError(Problem(what, "model.config.vision_config", "give tower= and language_model= in its place"))


def _prepare(model: ModelConfig) -> tuple[PreTrainedTokenizerBase, ImageRule | None]:
    """The tokenizer and how pictures become tokens, made first: what is wrong with them is told before a file is read.

    Raises:
        ConfigError: they do not fit the model.
    """
    tokenizer = build_tokenizer(model)
    return tokenizer, build_image_rule(model, tokenizer)


def _write_rest(
    built: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rule: ImageRule | None,
    output: Path,
    dtype: torch.dtype,
) -> None:
    """config.json, tokenizer and image processor."""
    built.config.architectures = [type(built).__name__]
    built.config.dtype = dtype
    built.config.save_pretrained(output)
    save_processor(output, built.config, tokenizer, rule)
