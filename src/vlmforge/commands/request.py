"""What a command is asked: a verb, its own arguments, and overrides for the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vlmforge.errors import ConfigError, Problem

# Arguments of verbs, everything else is an override. They are split at the first `=` and taken verbatim.
ARGUMENTS = (
    "recipe",
    "checkpoint",
    "prompt",
    "image",
    "video",
    "input",
    "output",
    "html",
    "tasks",
    "reference",
    "tower",
    "language_model",
    "layout",
    "world_size",
    "check_data",
)


@dataclass(frozen=True)
class Request:
    """One call of the command.

    Attributes:
        verb: the first word.
        arguments: every value given for each argument, in order.
        overrides: the rest, in Hydra's grammar.
        debug: show tracebacks.
    """

    verb: str
    arguments: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    overrides: Sequence[str] = ()
    debug: bool = False

    def words(self) -> list[str]:
        """The command line that asks the same, for processes that vlmforge starts itself."""
        arguments = [f"{name}={value}" for name, values in self.arguments.items() for value in values]
        return [self.verb, *arguments, *self.overrides, *(["--debug"] if self.debug else [])]

    def all(self, name: str) -> list[str]:
        """Every value of an argument."""
        return list(self.arguments.get(name, ()))

    def one(self, name: str) -> str | None:
        """The value of an argument that has one; null when it is not given.

        Raises:
            ConfigError: it is given twice.
        """
        given = self.all(name)
        if len(given) > 1:
            raise _bad_argument(name, given[1], f"{name} is given {len(given)} times", f"keep {name}={given[0]}")
        return given[0] if given else None

    def required(self, name: str, example: str) -> str:
        """The value of an argument that must be given.

        Raises:
            ConfigError: it is missing, empty or given twice.
        """
        value = self.one(name)
        if not value:
            raise ConfigError(
                Problem(
                    what=f"{name} is not given, and `vlmforge {self.verb}` needs one",
                    where=f"command line: {self.verb} {' '.join(self.overrides)}".rstrip(),
                    fix=f"vlmforge {self.verb} {name}={example}",
                )
            )
        return value

    def number(self, name: str) -> int | None:
        """A whole number of at least 1.

        Raises:
            ConfigError: it is something else.
        """
        value = self.one(name)
        if value is None:
            return None
        if not value.isascii() or not value.isdigit() or int(value) < 1:
            raise _bad_argument(name, value, f"{name} = {value} must be a whole number of at least 1", f"{name}=4")
        return int(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            ConfigError: it is something else.
        """
        value = self.one(name)
        if value is None:
            return default
        if value.lower() not in ("true", "false"):
            raise _bad_argument(name, value, f"{name} = {value} must be true or false", f"{name}=false")
        return value.lower() == "true"


def _bad_argument(name: str, value: str, what: str, fix: str) -> ConfigError:
    return ConfigError(Problem(what=what, where=f"command line: {name}={value}", fix=fix))
