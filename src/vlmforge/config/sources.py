"""Walks over the sources of a blend, which may hold blends themselves; knows nothing of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from vlmforge.config.recipes import YAML_SUFFIXES
from vlmforge.config.schema import Config, SourceConfig

BlendName = Literal["train", "validation"]
BLENDS: tuple[BlendName, ...] = get_args(BlendName)


def walk_sources(sources: Sequence[SourceConfig], at: str) -> Iterator[tuple[str, SourceConfig]]:
    """Every entry with its dotted path, an entry before those inside it."""
    for index, source in enumerate(sources):
        yield f"{at}.{index}", source
        yield from walk_sources(source.sources, f"{at}.{index}.sources")


def walk_config(config: Config) -> Iterator[tuple[str, SourceConfig]]:
    """Every entry of `data.train` and `data.validation`."""
    for blend in BLENDS:
        yield from walk_sources(getattr(config.data, blend), f"data.{blend}")


def is_blend_file(source: SourceConfig) -> bool:
    """Whether an entry is the YAML file of an energon blend."""
    return any(path.endswith(YAML_SUFFIXES) for path in source.path)
