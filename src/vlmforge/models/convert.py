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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vlmforge.config.schema import Config, ModelConfig
from vlmforge.errors import CheckpointError, ConfigError, Problem, one_of
from vlmforge.models.build import build_on_meta, check_on_meta, count_parameters
from vlmforge.models.hub import fetch_folder
from vlmforge.models.images import build_image_processor, build_image_rule, save_processor
from vlmforge.models.published import check_publishable, list_habits, published_config
from vlmforge.models.shape import build_hf_config
from vlmforge.models.stated import check_published, check_text, check_tower, layout_of, read_config
from vlmforge.models.stitch import Fit, Source, TensorFiles, list_tensors, publish, stitch
from vlmforge.models.stitched import LANGUAGE_MODELS, RANDOM, STITCHED, TEXT_PATH
from vlmforge.models.stitched_files import (
    LAYOUTS,
    PUBLISHED_TEXT,
    TEXT_PREFIXES,
    part_experts,
    published_table,
    text_table,
    tower_candidates,
)
from vlmforge.models.stitched_model import TOWER_CLASSES
from vlmforge.models.tokenizer import build_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from vlmforge.data.images import ImageRule


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        num_parameters: of the model.
        drawn: names of the tensors that no folder had.
        unused: names of a folder's tensors that the model has no place for.
        notes: what was added to tensors of the folders, and what readers of a layout take for granted.
    """

    num_parameters: int
    drawn: Sequence[str] = ()
    unused: Sequence[str] = ()
    notes: Sequence[str] = ()


def join_parts(model: ModelConfig, tower: str, language_model: str, output: Path, seed: int) -> Converted:
    """Make a stitched model of a tower and a language model; the projector is drawn.

    Args:
        model: its shape, and how it sees; the tokenizer is the language model's unless it names another.
        tower: folder or hub id, or `RANDOM` for one that is drawn.
        language_model: folder or hub id.
        output: folder of the result.
        seed: of what is drawn, and of rows that a table gains.

    Raises:
        ConfigError: the shape is no stitched model's or not the parts', or the tokenizer does not fit it.
        CheckpointError: a folder lacks a tensor, or has one of another shape.
    """
    text_folder = fetch_folder(language_model, key="language_model")
    model = _without_weights(model, text_folder)
    built = _build(model)
    check_text(build_hf_config(ModelConfig(pretrained=str(text_folder))), built.config.text_config, text_folder)
    seeing, fit = _prepare(model), Fit(built, seed)
    text_files, shape = list_tensors(text_folder), built.config.vision_config
    sources = _text_sources(fit, text_files, text_folder)
    # Of the language model's own; a norm is small.
    dtype = _dtype_of(sources[0], f"{TEXT_PATH}.norm.weight")
    with TemporaryDirectory() as place:
        is_drawn = tower == RANDOM
        folder = _draw_tower(shape, seed, dtype, Path(place)) if is_drawn else fetch_folder(tower, key="tower")
        check_tower(read_config(folder, "tower"), shape, folder)
        tower_files = list_tensors(folder)
        candidates = [Source(folder, table) for table in tower_candidates(shape.model_type, list(fit.shapes))]
        seen = _find(candidates, tower_files, "the tower")
        sources.append(seen)
        drawn = stitch(fit, sources, output, dtype)
    if is_drawn:
        drawn = [own for owns in seen.table.values() for own in owns] + drawn
    used = {name for source in sources for name in source.needed}
    _write_rest(built, *seeing, output, dtype)
    return Converted(count_parameters(built)[0], drawn, sorted((tower_files | text_files) - used), fit.notes)


def read_published(model: ModelConfig, checkpoint: str, output: Path, seed: int) -> Converted:
    """Make a stitched model of a published one's files.

    Args:
        model: its shape, and how it sees.
        checkpoint: folder or hub id.
        output: folder of the result.
        seed: of rows that a table gains.

    Raises:
        ConfigError: the shape is not what the folder's config.json says.
        CheckpointError: the folder is no published model's, lacks a tensor, or has one of another shape.
    """
    folder = fetch_folder(checkpoint, key="checkpoint")
    stored = read_config(folder, "checkpoint")
    layout = layout_of(stored, folder)
    model = _without_weights(model, folder)
    built = _build(model)
    check_publishable(layout, built.config, "model.config")
    check_published(stored, built.config, layout, folder)
    seeing, fit = _prepare(model), Fit(built, seed)
    available = list_tensors(folder)
    source = _find([Source(folder, published_table(layout, list(fit.shapes)))], available, "the model")
    dtype = _dtype_of(source, f"{TEXT_PATH}.norm.weight")
    stitch(fit, [source], output, dtype)
    # What the release says besides goes back with it.
    built.config.published = stored
    _write_rest(built, *seeing, output, dtype)
    unused = sorted(available - source.table.keys() - layout.buffers.keys())
    return Converted(count_parameters(built)[0], (), unused, fit.notes)


def write_published(folder: Path, layout_name: str, output: Path) -> Converted:
    """Write a stitched model's folder as a published model's files.

    Raises:
        ConfigError: there is no such layout, or its readers would take the model for another.
        CheckpointError: the folder is no model's, or lacks a tensor.
    """
    if layout_name not in LAYOUTS:
        known = one_of(list(LAYOUTS))
        what = f"layout = {layout_name} is not a layout; there is {known}"
        raise ConfigError(Problem(what, "command line", f"layout={next(iter(LAYOUTS))}"))
    layout, where = LAYOUTS[layout_name], str(folder / "config.json")
    if read_config(folder, "checkpoint").get("model_type") != STITCHED.model_type:
        what = f"layout = {layout_name} is for stitched models, and {folder} is none"
        raise ConfigError(Problem(what, where, "give the export/ of a stitched model"))
    model = ModelConfig(pretrained=str(folder), tokenizer=str(folder))
    shape: Any = build_hf_config(model)
    check_publishable(layout, shape, where)
    if layout.num_dummy_heads:
        model = replace(model, config={"vision_config": {"num_dummy_heads": layout.num_dummy_heads}})
    fit = Fit(_build(model))
    table = published_table(layout, list(fit.shapes))
    if shape.tie_word_embeddings:
        # Published models tie nothing: their head is a copy.
        table = {**table, f"{PUBLISHED_TEXT}lm_head.weight": (f"{TEXT_PATH}.embed_tokens.weight",)}
    publish(folder, fit, layout, table, output)
    seen = build_image_processor(ModelConfig(pretrained=str(folder)), shape).to_dict()
    (output / "config.json").write_text(json.dumps(published_config(layout, shape, seen), indent=2))
    load_tokenizer(folder).save_pretrained(output)
    return Converted(count_parameters(fit.model)[0], notes=[*fit.notes, *list_habits(layout, seen)])


def _draw_tower(shape: Any, seed: int, dtype: torch.dtype, folder: Path) -> Path:
    """A folder of a tower with weights of its class's own drawing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower: Any = TOWER_CLASSES[shape.model_type]._from_config(shape)
    tower.to(dtype).save_pretrained(folder)
    return folder


def _build(model: ModelConfig) -> PreTrainedModel:
    """On meta.

    Raises:
        ConfigError: transformers cannot build it.
    """
    problems = check_on_meta(Config(model=model))
    if problems:
        raise ConfigError(problems)
    return build_on_meta(Config(model=model))


def _without_weights(model: ModelConfig, folder: Path) -> ModelConfig:
    """The shape alone, with the tokenizer of a folder."""
    if model.family != STITCHED.name:
        what = f"model.family = {model.family}: only stitched models are made of parts"
        raise ConfigError(Problem(what, "model.family", "model=mistral_clip, or another model file of family stitched"))
    return replace(model, pretrained=None, init="random", tokenizer=model.tokenizer or str(folder))


def _find(candidates: Sequence[Source], available: set[str], part: str) -> Source:
    """The source all of whose tensors are there; where none is, what the nearest one lacks is told."""
    found = next((source for source in candidates if source.needed <= available), None)
    if found is not None:
        return found
    nearest = min(candidates, key=lambda source: len(source.needed - available))
    missing, folder = sorted(nearest.needed - available), nearest.folder
    problem = Problem(
        f"{folder} lacks {len(missing)} tensors of {part}, for example {missing[0]}",
        str(folder),
        "give the folder that model.config describes",
    )
    raise CheckpointError(problem)


def _text_sources(fit: Fit, available: set[str], folder: Path) -> list[Source]:
    """The language model's tensors; of a tied one the table serves as the head too, where the model ties nothing."""
    part, names = "the language model", list(fit.shapes)
    candidates = _text_candidates(fit, names, folder)
    if "lm_head.weight" in names and not any(source.needed <= available for source in candidates):
        body = [name for name in names if name != "lm_head.weight"]
        source = _find(_text_candidates(fit, body, folder), available, part)
        rows = next(file for file, owns in source.table.items() if owns == (f"{TEXT_PATH}.embed_tokens.weight",))
        return [source, Source(folder, {rows: ("lm_head.weight",)})]
    return [_find(candidates, available, part)]


def _text_candidates(fit: Fit, names: Sequence[str], folder: Path) -> list[Source]:
    """Every way in which a folder may hold a language model: under what prefix, and experts together or one by one."""
    fused = LANGUAGE_MODELS[fit.model.config.text_config.model_type].fused
    tables = [text_table(names, prefix) for prefix in TEXT_PREFIXES]
    parted = [Source(folder, *part_experts(table, fused, fit.shapes)) for table in tables] if fused else []
    return [*(Source(folder, table) for table in tables), *parted]


def _dtype_of(source: Source, own: str) -> torch.dtype:
    name = next(file for file, owns in source.table.items() if owns == (own,))
    with ExitStack() as stack:
        return TensorFiles(source.folder, stack).read(name).dtype


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
