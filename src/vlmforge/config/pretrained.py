"""Which source rules the shape of a model: a group file, a folder's own config.json, or the overrides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmforge.config.facts import FamilyFacts
from vlmforge.config.origins import Origins
from vlmforge.config.plain import is_section
from vlmforge.config.schema import ModelConfig

# Values that `scale=tiny` says give way to a folder just as a group file's do.
SCALE_ORIGIN = "scale=tiny"


@dataclass(frozen=True)
class Stated:
    """What the group file of a model says.

    Attributes:
        values: its `config`.
        origins: dotted path to `file:line`, of every key.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    def says(self, path: str, origins: Origins) -> bool:
        """Whether the value of `path` is still the group file's."""
        return path in origins and origins[path] in (self.origins.get(path), SCALE_ORIGIN)

    def shape_of(self, origins: Origins) -> Mapping[str, Any]:
        """The shape of `model.pretrained`, if both are the group file's; else empty."""
        said = origins.get("model.pretrained")
        return self.values if said is not None and said == self.origins.get("model.pretrained") else {}


def drop_stated_shape(values: dict[str, Any], origins: Origins, stated: Stated) -> None:
    """When a later source names a folder, drop the shape and the family that the group file states.

    The folder's config.json says them better; what a recipe or the command line sets stays an override.
    """
    model = values.get("model")
    if not is_section(model):
        return
    if not stated.says("model.pretrained", origins) and stated.says("model.revision", origins):
        # A commit of the model that the group file names.
        del model["revision"]
        origins.forget("model.revision")
    if not is_folder(model.get("pretrained")) or stated.says("model.pretrained", origins):
        return
    if stated.says("model.family", origins):
        del model["family"]
        origins.forget("model.family")
    shape = model.get("config")
    if is_section(shape):
        _drop_stated(shape, "model.config", origins, stated)


def _drop_stated(section: dict[str, Any], path: str, origins: Origins, stated: Stated) -> None:
    """Remove what the group file says, at any depth; a section of which something is left stays."""
    for name, value in list(section.items()):
        at = f"{path}.{name}"
        if is_section(value):
            _drop_stated(value, at, origins, stated)
        if stated.says(at, origins) and not (is_section(value) and value):
            del section[name]
            origins.forget(at)


def is_folder(pretrained: object) -> bool:
    """Whether `model.pretrained` is a folder that exists; otherwise it may be a hub id."""
    return isinstance(pretrained, str) and bool(pretrained) and Path(pretrained).is_dir()


def read_shape(folder: str, families: Mapping[str, FamilyFacts]) -> dict[str, Any]:
    """The config.json of a model folder; of an image-text model that wraps one of the families, its text part.

    Raises:
        ValueError: there is none, or it is no JSON object; the text says which.
    """
    path = Path(folder, "config.json")
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not is_section(content):
        raise ValueError(f"{path} is not a JSON object")
    return unwrap(content, families)


def unwrap(content: dict[str, Any], families: Mapping[str, FamilyFacts]) -> dict[str, Any]:
    """The text model's part of a config.json where that is of an image-text model around one of the families."""
    for family in families.values():
        wrapper = family.wrapper
        if wrapper is not None and content.get("model_type") == wrapper.model_type:
            inner = content.get(wrapper.section)
            return {**(inner if is_section(inner) else {}), "model_type": family.model_type}
    return content


def nest(content: Mapping[str, Any], family: FamilyFacts) -> dict[str, Any]:
    """A config.json with its language model's fields in the section where its class has them.

    Files of before transformers 5 may have them at the top.
    """
    section = family.text_section
    if not section or section in content:
        return dict(content)
    # What the model has too stays the model's.
    moved = family.text_fields.keys() - family.fields.keys()
    inner = {name: value for name, value in content.items() if name in moved}
    return {**{name: value for name, value in content.items() if name not in inner}, section: inner}


@dataclass(frozen=True)
class Shape:
    """The shape of a model before it is built.

    Attributes:
        family: name of its family; null when nothing says it.
        fields: Hugging Face fields, overrides included; of a model of text and images those of its language model too.
        reference: fields that belong to the weights, without overrides; empty when they are not known.
        text_path: where the language model's fields stand: `model.config`, or a section below it.
    """

    family: str | None
    fields: Mapping[str, Any]
    reference: Mapping[str, Any]
    text_path: str = "model.config"


def derive_shape(
    model: ModelConfig, families: Mapping[str, FamilyFacts], stated_shape: Mapping[str, Any] | None = None
) -> Shape:
    """The family and the fields of a model: a folder's own, with `model.config` over them.

    Raises:
        ValueError: `model.pretrained` is a folder whose config.json cannot be read.
    """
    reference = dict(stated_shape or {})
    family = model.family
    if model.pretrained is not None and is_folder(model.pretrained):
        reference = read_shape(model.pretrained, families)
        family = family or _family_of(reference, families)
    facts = families.get(family or "")
    if facts is None:
        return Shape(family, dict(model.config), reference)
    reference = nest(reference, facts)
    fields = {name: value for name, value in reference.items() if name in facts.fields}
    for name, value in model.config.items():
        inner = fields.get(name) if name in facts.sections else None
        fields[name] = {**inner, **value} if is_section(inner) and is_section(value) else value
    text = fields.get(facts.text_section)
    if not is_section(text):
        return Shape(family, fields, reference)
    return Shape(family, {**fields, **text}, reference, f"model.config.{facts.text_section}")


def _family_of(content: Mapping[str, Any], families: Mapping[str, FamilyFacts]) -> str | None:
    """The family that a config.json's `model_type` names; an unknown model_type is returned as it is."""
    model_type = content.get("model_type")
    for family in families.values():
        if family.model_type == model_type:
            return family.name
    return model_type if isinstance(model_type, str) else None
