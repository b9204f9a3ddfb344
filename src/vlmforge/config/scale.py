"""`scale=tiny`: the same recipe, small enough for two cores and no network.

It keeps everything that decides which code runs (family, structure, stage, adapter, packing, formats) and changes
sizes. It is applied after the recipe and before the command line's values, so that any of it can be set again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmforge.config.facts import FamilyFacts
from vlmforge.config.origins import Origins
from vlmforge.config.overrides import Choice, Setting
from vlmforge.config.plain import is_list, is_section, is_whole_number
from vlmforge.config.pretrained import SCALE_ORIGIN, is_folder, nest, read_shape
from vlmforge.config.recipes import YAML_SUFFIXES

TINY_SEQ_LEN = 512
TINY_ROWS = 64
TINY_RANK = 4
TINY_WINDOW = 16

TINY_MODEL: Mapping[str, Any] = {
    "pretrained": None,
    "revision": None,
    "init": "random",
    "tokenizer": "builtin:bytes",
    "chat_template": "builtin:chatml",
}
# A picture of any size becomes a handful of tokens.
TINY_IMAGE: Mapping[str, int] = {"min_pixels": 16 * 16, "max_pixels": 64 * 64, "max_tiles": 2}
TINY_FRAMES = 2
TINY_TAGS = ("<tile_1>", "<tile_2>", "<tile_global_thumbnail>", "<tile_global>")
TINY_MESH: Mapping[str, Any] = {name: 1 for name in ("dp_replicate", "dp_shard", "tp", "cp", "ep", "pp")}
TINY_STAGE: Mapping[str, Any] = {
    "micro_batch_size": 1,
    "global_batch_size": 4,
    "max_steps": 3,
    "max_epochs": None,
}
TINY_PACKING_WINDOW = 32
# Ends of a source, beyond the few samples that a tiny run draws from it.
TINY_SOURCE_END: Mapping[str, Any] = {"max_samples": 1000, "max_epochs": 100.0}
TINY_EVALUATE: Mapping[str, Any] = {"limit": 2, "every_steps": None}
WARMUPS = ("warmup_steps", "warmup_samples", "warmup_ratio")


def chooses_mesh(choices: Sequence[Choice], settings: Sequence[Setting]) -> bool:
    """Whether the command line chooses a whole mesh: a group file, or the section.

    Single axes are set over a mesh of one process, so that `parallelism.dp_shard=2` is two of them whatever the recipe
    is for.
    """
    return any(choice.group == "parallelism" for choice in choices) or any(
        setting.path == "parallelism" for setting in settings
    )


def apply_tiny(
    values: dict[str, Any], origins: Origins, families: Mapping[str, FamilyFacts], *, keep_mesh: bool
) -> None:
    """Make a composed recipe tiny, in place.

    Args:
        values: sections at the top; sections of a wrong type are left for the decoder to report.
        origins: told which values come from the scale.
        families: model families by name, for their tiny shapes.
        keep_mesh: the mesh is another one's choice.
    """
    tiny = _Writer(values, origins)
    _shrink_model(tiny, families)
    for blend in ("train", "validation"):
        _shrink_blend(tiny, blend, sees=_sees(tiny, families))
    workers = (tiny.section("data") or {}).get("num_workers")
    if is_whole_number(workers) and workers > 1:
        tiny.update("data", {"num_workers": 1})
    if not keep_mesh:
        tiny.update("parallelism", TINY_MESH)
    parallelism = tiny.section("parallelism") or {}
    # Compiling takes longer than the run, and it needs no GPU from which weights could be taken.
    tiny.update("parallelism", {key: False for key in ("compile", "cpu_offload") if parallelism.get(key)})
    _shrink_stage(tiny)
    tiny.update("evaluate", TINY_EVALUATE)
    tiny.update("checkpointing", {"every_steps": None})
    tiny.update("launch", {"num_nodes": None, "processes_per_node": None})


class _Writer:
    """Sets values below sections, with their origin."""

    def __init__(self, values: dict[str, Any], origins: Origins) -> None:
        self.values = values
        self.origins = origins
        # Whether a source was replaced: its samples are of another length than the recipe's.
        self.has_other_samples = False

    def section(self, path: str) -> dict[str, Any] | None:
        """The section at a dotted path, made if it is missing; null if something else stands there."""
        holder = self.values
        for name in path.split("."):
            if holder.get(name) is None:
                holder[name] = {}
            inner = holder[name]
            if not is_section(inner):
                return None
            holder = inner
        return holder

    def update(self, path: str, new: Mapping[str, Any]) -> None:
        """Set keys of a section."""
        section = self.section(path)
        if section is None:
            return
        for name, value in new.items():
            section[name] = value
            self.origins.record(f"{path}.{name}", value, SCALE_ORIGIN)

    def merge(self, path: str, new: Mapping[str, Any], *, is_over: bool = True) -> None:
        """Set keys of a section and of the sections in it, or only those that are not there."""
        section = self.section(path)
        if section is None:
            return
        for name, value in new.items():
            if is_section(value) and (section.get(name) is None or is_section(section[name])):
                self.merge(f"{path}.{name}", value, is_over=is_over)
            elif is_over or name not in section:
                self.update(path, {name: value})


def _shrink_model(tiny: _Writer, families: Mapping[str, FamilyFacts]) -> None:
    model = tiny.section("model")
    if model is None:
        return
    content = _folder_shape(model.get("pretrained"), families)
    if model.get("family") is None and content:
        types = {family.model_type: name for name, family in families.items()}
        model_type = str(content.get("model_type"))
        tiny.update("model", {"family": types.get(model_type, model_type)})
    family = families.get(str(model.get("family")))
    tiny.update("model", TINY_MODEL)
    if model.get("kernels") == "liger":
        # Triton kernels need CUDA, and a tiny run promises to need none.
        tiny.update("model", {"kernels": "torch"})
    if family is not None:
        tiny.update("model.image", {name: TINY_IMAGE[name] for name in family.image_keys if name in TINY_IMAGE})
        _add_tags(tiny)
        if family.image_keys:
            tiny.update("model.image", {"num_frames": TINY_FRAMES})
    shape = tiny.section("model.config")
    if family is None or shape is None:
        return
    tiny.merge("model.config", _known_fields(content, family), is_over=False)
    family = family.narrow(shape)
    tiny.merge("model.config", family.tiny)
    for path in family.tiny_drops:
        section, _, name = path.rpartition(".")
        (shape.get(section, {}) if section else shape).pop(name, None)
        tiny.origins.forget(f"model.config.{path}")
    text_path = f"model.config.{family.text_section}".rstrip(".")
    text = tiny.section(text_path)
    if text is not None:
        _shrink_rope(tiny, text, text_path)
        _shrink_windows(tiny, text, text_path)


def _add_tags(tiny: _Writer) -> None:
    """Tags of tiles are tokens of their own: made of bytes, they would be of different lengths."""
    image = tiny.section("model.image") or {}
    if image.get("tile_tags") in (None, "none"):
        return
    known = image.get("special_tokens")
    words = list(known) if is_list(known) else ["<image>"]
    tiny.update("model.image", {"special_tokens": [*words, *(word for word in TINY_TAGS if word not in words)]})


def _known_fields(content: Mapping[str, Any], family: FamilyFacts) -> dict[str, Any]:
    """What a recipe could say of a folder's config.json."""
    fields = {name: value for name, value in nest(content, family).items() if name in family.fields}
    for section, names in family.sections.items():
        inner = fields.get(section)
        if is_section(inner):
            fields[section] = {name: value for name, value in inner.items() if name in names}
    return fields


def _shrink_rope(tiny: _Writer, shape: dict[str, Any], path: str) -> None:
    """Scaled positions keep their factor, so the length they were scaled from shrinks with the longest one."""
    scaling, longest = shape.get("rope_scaling"), shape.get("max_position_embeddings")
    if not is_section(scaling) or not is_whole_number(longest):
        return
    factor = scaling.get("factor")
    if "original_max_position_embeddings" in scaling and isinstance(factor, int | float) and factor >= 1:
        original = max(1, int(longest / factor))
        tiny.update(f"{path}.rope_scaling", {"original_max_position_embeddings": original})


def _shrink_windows(tiny: _Writer, shape: dict[str, Any], path: str) -> None:
    """A model that looks back a window, or sees its chunk only, has one that is shorter than its tiny samples."""
    for name in ("sliding_window", "attention_chunk_size", "floor_scale"):
        if is_whole_number(shape.get(name)):
            tiny.update(path, {name: min(shape[name], TINY_WINDOW)})


def _folder_shape(pretrained: object, families: Mapping[str, FamilyFacts]) -> dict[str, Any]:
    """The fields of a model folder, whose structure the tiny model shares."""
    if not is_folder(pretrained):
        return {}
    try:
        return read_shape(str(pretrained), families)
    except ValueError:
        return {}


def _sees(tiny: _Writer, families: Mapping[str, FamilyFacts]) -> bool:
    """Whether the recipe's model takes pictures."""
    model = tiny.section("model") or {}
    family = families.get(str(model.get("family")))
    return family is not None and bool(family.image_keys)


def _shrink_blend(tiny: _Writer, blend: str, *, sees: bool) -> None:
    data = tiny.section("data")
    sources = data.get(blend) if data is not None else None
    if data is not None and isinstance(sources, str) and sources.endswith(YAML_SUFFIXES):
        data[blend] = sources = [{"path": sources}]
    _shrink_sources(tiny, sources, f"data.{blend}", sees=sees)


def _shrink_sources(tiny: _Writer, sources: Any, path: str, *, sees: bool) -> None:
    for index, source in enumerate(sources) if is_list(sources) else ():
        if is_section(source):
            _shrink_source(tiny, source, f"{path}.{index}", sees=sees)
            _shrink_sources(tiny, source.get("sources"), f"{path}.{index}.sources", sees=sees)


def _shrink_source(tiny: _Writer, source: dict[str, Any], path: str, *, sees: bool) -> None:
    """A source of the same format from the built-in samples, with pictures where the model takes them.

    Built-in sources keep theirs, but fewer.
    """
    new: dict[str, Any] = {}
    # Decoded, a path is a list of them, as of a recipe that is reduced for a comparison.
    paths = source.get("path")
    first_path = str(paths[0] if is_list(paths) and paths else paths)
    if first_path.startswith("builtin:"):
        new["rows"] = _fewer_rows(source.get("rows"))
    elif source.get("format"):
        has_images = sees and source["format"] == "messages"
        new["path"] = "builtin:image_messages" if has_images else f"builtin:{source['format']}"
    elif first_path.endswith(YAML_SUFFIXES):
        # What an energon blend holds is not known before its data sets are opened.
        new = {"path": "builtin:image_messages" if sees else "builtin:messages", "format": "messages"}
    if "path" in new:
        tiny.has_other_samples = True
        for name in ("rows", "split", "streaming", "media_root"):
            if source.pop(name, None) is not None:
                tiny.origins.forget(f"{path}.{name}")
    # Every source is small, and the run ends by its steps.
    for name in ("max_samples", "max_epochs"):
        if source.get(name) is not None:
            new[name] = TINY_SOURCE_END[name]
    source.update(new)
    for name, value in new.items():
        tiny.origins.record(f"{path}.{name}", value, SCALE_ORIGIN)


def _fewer_rows(rows: Any) -> list[int]:
    """At most `TINY_ROWS` rows, from where the recipe starts, so that held-out rows stay held out."""
    if is_list(rows) and len(rows) == 2 and all(is_whole_number(row) for row in rows):
        start, stop = rows
        return [start, min(stop, start + TINY_ROWS)]
    return [0, TINY_ROWS]


def _shrink_stage(tiny: _Writer) -> None:
    stage = tiny.section("stage")
    if stage is None:
        return
    seq_len = stage.get("seq_len")
    is_other = is_whole_number(seq_len) and (seq_len > TINY_SEQ_LEN or (tiny.has_other_samples and seq_len >= 8))
    if seq_len is None or is_other:
        tiny.update("stage", {"seq_len": TINY_SEQ_LEN})
    tiny.update("stage", TINY_STAGE)
    cap, longest = stage.get("max_tokens_per_micro_batch"), stage["seq_len"]
    if is_whole_number(cap) and is_whole_number(longest) and cap > longest:
        # The steps are still cut.
        tiny.update("stage", {"max_tokens_per_micro_batch": longest})
    if stage.get("packing", "none") != "none":
        tiny.update("stage", {"packing_window": TINY_PACKING_WINDOW})
    tiny.update("stage.generation", {"max_new_tokens": 4})
    schedule = tiny.section("stage.schedule") or {}
    if any(schedule.get(name) is not None for name in WARMUPS):
        tiny.update("stage.schedule", {name: 1 if name == "warmup_steps" else None for name in WARMUPS})
    tiny.update("stage.schedule", {"decay_steps": None, "decay_samples": None})
    adapter = stage.get("adapter")
    if is_section(adapter):
        rank = adapter.get("rank", TINY_RANK)
        small = min(rank, TINY_RANK) if is_whole_number(rank) else rank
        tiny.update("stage.adapter", {"rank": small, "path": None})
