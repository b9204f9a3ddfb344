"""The tree of a blend: sources as its leaves, and how much each gives, in which unit, until when.

This file only names the shapes. `tree.py` makes them of a recipe, `energon.py` of energon's own blend files, and
`shares.py` turns them into numbers once the sources are open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from vlmforge.config.schema import SourceConfig, WeightUnit


@dataclass(frozen=True)
class Terms:
    """On which terms a source or a group takes part.

    Attributes:
        weight: in the unit of the list that it stands in; None: every row once an epoch.
        max_samples: it ends after so many samples.
        max_epochs: it ends after so many epochs of its own.
    """

    weight: Fraction | None = None
    max_samples: int | None = None
    max_epochs: Fraction | None = None

    @property
    def are_set(self) -> bool:
        """Whether anything is said."""
        return self != Terms()

    def tell(self, unit: WeightUnit) -> list[str]:
        """What is said, in words; `unit` is that of the weight."""
        said = (("max_samples", self.max_samples), ("max_epochs", self.max_epochs))
        weight = [] if self.weight is None else [f"weight {float(self.weight)} in {unit}"]
        return weight + [f"{name} {float(value)}" for name, value in said if value is not None]


@dataclass(frozen=True)
class Subset:
    """A range of rows.

    Attributes:
        start: first row, or a fraction of the rows.
        stop: end of the rows in the same measure; None: the last.
    """

    start: int | Fraction
    stop: int | Fraction | None

    def tell(self) -> str:
        """In words: `rows 0 to 50`, or `0.0 to 0.5 of the rows`."""
        if isinstance(self.start, Fraction):
            return f"{float(self.start)} to {1.0 if self.stop is None else float(self.stop)} of the rows"
        return f"rows {self.start} to {'the end' if self.stop is None else self.stop}"

    def narrow(self, start: int, stop: int) -> tuple[int, int]:
        """The part of rows [start, stop) that is meant; empty where they end before it begins."""
        size = stop - start
        first, last = (_at(mark, size) for mark in (self.start, size if self.stop is None else self.stop))
        return start + first, start + max(first, last)


def _at(mark: int | Fraction, size: int) -> int:
    return min(size, int(mark * size) if isinstance(mark, Fraction) else mark)


@dataclass(frozen=True)
class Leaf:
    """One source.

    Attributes:
        source: its path, format and so on; what it says of mixing is in `terms`.
        at: dotted path of the entry that named it, such as `data.train.0`.
        where: `file:line` of the energon blend that names it; None: the recipe does.
        terms: on which it takes part.
        subsets: of its rows, the innermost first.
    """

    source: SourceConfig
    at: str
    where: str | None = None
    terms: Terms = Terms()
    subsets: tuple[Subset, ...] = ()


@dataclass(frozen=True)
class Group:
    """A list of sources and groups.

    Attributes:
        parts: in the order of the recipe.
        unit: of the weights of its parts.
        terms: on which it takes part in the group around it.
    """

    parts: tuple[Leaf | Group, ...]
    unit: WeightUnit = "samples"
    terms: Terms = Terms()

    def leaves(self) -> Iterator[Leaf]:
        """All sources, in order."""
        for part in self.parts:
            if isinstance(part, Group):
                yield from part.leaves()
            else:
                yield part

    def list_terms(self) -> Iterator[list[str]]:
        """For each leaf, in order, its terms in words, after those of the groups around it."""
        for part in self.parts:
            for inner in part.list_terms() if isinstance(part, Group) else [[]]:
                yield [*part.terms.tell(self.unit), *inner]

    @property
    def is_mixed(self) -> bool:
        """Whether anything is said of how much each part gives, here or further in."""
        return any(part.terms.are_set or (isinstance(part, Group) and part.is_mixed) for part in self.parts)
