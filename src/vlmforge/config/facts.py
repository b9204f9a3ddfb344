"""What the checks must be told, because `config` imports nothing that stands above it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class WrapperFacts(Protocol):
    """What is read of the image-text model around a family; `vlmforge.models.family.Wrapper` has it."""

    @property
    def model_type(self) -> str:
        """`model_type` of its config.json."""
        ...

    @property
    def section(self) -> str:
        """Where that holds the text model's fields."""
        ...


class TilesFacts(Protocol):
    """What is read of a stitched model's tower; `vlmforge.models.family.Tiles` has it."""

    @property
    def prefix_tokens(self) -> int | tuple[str, ...]:
        """Tokens before those of the patches, or the fields of `vision_config` whose sum it is."""
        ...

    @property
    def needs_whole_patches(self) -> bool:
        """Whether a tile must be whole patches."""
        ...


class FamilyFacts(Protocol):
    """What is read of a model family; `vlmforge.models.Family` has it."""

    @property
    def name(self) -> str:
        """Value of `model.family`."""
        ...

    @property
    def model_type(self) -> str:
        """`model_type` of its config.json."""
        ...

    @property
    def fields(self) -> Mapping[str, tuple[type, ...]]:
        """Field names to allowed types."""
        ...

    @property
    def required(self) -> tuple[str, ...]:
        """Fields without which the shape is not known."""
        ...

    @property
    def sections(self) -> Mapping[str, Mapping[str, tuple[type, ...]]]:
        """Of a model of text and images, config.json's sections with their fields."""
        ...

    @property
    def parts(self) -> Mapping[str, Collection[str]]:
        """Sections to the values of their `model_type`, where there are parts of several kinds."""
        ...

    def narrow(self, fields: Mapping[str, Any]) -> FamilyFacts:
        """The family of a config's own parts."""
        ...

    @property
    def text_section(self) -> str:
        """The one that holds the language model's shape; empty where there are none."""
        ...

    @property
    def text_fields(self) -> Mapping[str, tuple[type, ...]]:
        """Fields of the language model."""
        ...

    @property
    def image_keys(self) -> Collection[str]:
        """Keys of `model.image` that have an effect."""
        ...

    @property
    def tiles(self) -> TilesFacts | None:
        """What a stitched model's tower makes of a tile; null for other models."""
        ...

    @property
    def choices(self) -> Mapping[str, tuple[str, ...]]:
        """Fields, by their path in config.json, to the values that they may have."""
        ...

    @property
    def groups(self) -> Mapping[str, Any]:
        """Groups that `stage.trainable` may name."""
        ...

    @property
    def has_liger(self) -> bool:
        """Whether `model.kernels` may be liger."""
        ...

    @property
    def tiny(self) -> Mapping[str, Any]:
        """`model.config` of the tiny version."""
        ...

    @property
    def tiny_drops(self) -> tuple[str, ...]:
        """Fields that the tiny version does not have."""
        ...

    @property
    def attentions(self) -> tuple[str, ...]:
        """Values of `model.attention` that its class computes rightly."""
        ...

    @property
    def wrapper(self) -> WrapperFacts | None:
        """The image-text model whose folders can be read for this family."""
        ...


class FormatFacts(Protocol):
    """What is read of a data format; `vlmforge.data.formats` has them."""

    @property
    def required(self) -> tuple[str, ...]:
        """Fields that every row has."""
        ...

    @property
    def optional(self) -> tuple[str, ...]:
        """Other fields that `columns` may name."""
        ...


@dataclass(frozen=True)
class Facts:
    """Everything besides the config that gate 1 looks at.

    Attributes:
        families: model families by name.
        formats: data formats by name.
        tasks: names of evaluation tasks.
        world_size: ranks, where the command line or torchrun says it; null: the config decides.
        num_gpus: GPUs of this machine.
        stated_shape: `model.config` as the model's group file states it.
    """

    families: Mapping[str, FamilyFacts]
    formats: Mapping[str, FormatFacts]
    tasks: Collection[str]
    world_size: int | None
    num_gpus: int
    stated_shape: Mapping[str, Any]
