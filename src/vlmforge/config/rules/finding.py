"""What a rule yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vlmforge.config.facts import Facts, FamilyFacts
from vlmforge.config.origins import Origins
from vlmforge.config.pretrained import Shape, derive_shape
from vlmforge.config.schema import Config


@dataclass(frozen=True)
class Subject:
    """What a rule looks at.

    Attributes:
        config: decoded, with defaults where a value could not be read.
        origins: who said what; a path that is absent holds its default.
        facts: families, formats and the machine.
    """

    config: Config
    origins: Origins
    facts: Facts

    def is_set(self, path: str) -> bool:
        """Whether somebody said this value and it is not the default.

        A recipe that `show` printed says every default, which must not count.
        """
        section: Any = self.config
        default: Any = Config()
        for name in path.split("."):
            section, default = getattr(section, name), getattr(default, name)
        return path in self.origins and section != default

    def shape(self) -> Shape | None:
        """The model's shape; null where its folder cannot be read, which a rule of its own reports."""
        try:
            return derive_shape(self.config.model, self.facts.families, self.facts.stated_shape)
        except ValueError:
            return None

    def family(self) -> FamilyFacts | None:
        """The family of the model's own parts; null where it is not known, which a rule of its own reports."""
        shape = self.shape()
        family = self.facts.families.get(shape.family or "") if shape is not None else None
        return None if shape is None or family is None else family.narrow(shape.fields)


@dataclass(frozen=True)
class Finding:
    """A broken rule.

    Attributes:
        paths: the keys it rests on, the one to blame first. Where one could not be read, the finding is dropped.
        what: the path with its value, and the rule.
        fix: what works.
    """

    paths: tuple[str, ...]
    what: str
    fix: str


Rule = Callable[[Subject], Iterator[Finding]]
