"""From the sources of a recipe to the tree of a blend.

Opens the YAML files of energon blends and nothing else; no source is opened here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from vlmforge.config.schema import DataConfig, SourceConfig, WeightUnit
from vlmforge.config.sources import BlendName, is_blend_file
from vlmforge.data.energon import read_blend
from vlmforge.data.leaves import Group, Leaf, Terms
from vlmforge.errors import DataError, Problem


@dataclass
class BlendBuilder:
    """Builds the tree and collects what is wrong with the files of energon blends."""

    problems: list[Problem] = field(default_factory=list)

    def build(self, data: DataConfig, blend: BlendName) -> Group:
        """The tree of one blend; what could not be read is left out."""
        sources: Sequence[SourceConfig] = getattr(data, blend)
        return Group(self._parts(sources, f"data.{blend}", data.weight_unit, blend), data.weight_unit)

    def _parts(
        self, sources: Sequence[SourceConfig], at: str, unit: WeightUnit, blend: BlendName
    ) -> tuple[Leaf | Group, ...]:
        made = (self._part(source, f"{at}.{index}", unit, blend) for index, source in enumerate(sources))
        return tuple(part for part in made if part is not None)

    def _part(self, source: SourceConfig, at: str, unit: WeightUnit, blend: BlendName) -> Leaf | Group | None:
        terms = Terms(_exact(source.weight), source.max_samples, _exact(source.max_epochs))
        if source.sources:
            inner_unit = source.weight_unit or unit
            return Group(self._parts(source.sources, f"{at}.sources", inner_unit, blend), inner_unit, terms)
        own = replace(source, weight=None, max_samples=None, max_epochs=None)
        if is_blend_file(source):
            return read_blend(own, at, "train" if blend == "train" else "val", terms, self.problems)
        return Leaf(own, at, terms=terms)


def build_blend(data: DataConfig, blend: BlendName) -> Group:
    """The tree of `data.train` or `data.validation`.

    Raises:
        DataError: the file of an energon blend cannot be read.
    """
    builder = BlendBuilder()
    group = builder.build(data, blend)
    if builder.problems:
        raise DataError(builder.problems)
    return group


def _exact(value: float | None) -> Fraction | None:
    """The decimal number that was written, which a float only comes near."""
    return None if value is None else Fraction(str(value))
