"""Gate 1: every rule that a config can break without a look at data or weights. Imports neither torch nor Hydra."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vlmforge.config.facts import Facts
from vlmforge.config.origins import Origins
from vlmforge.config.overrides import COMMAND_LINE
from vlmforge.config.rules import (
    blend,
    context,
    data,
    fields,
    image_cache,
    launch,
    layers,
    mesh,
    model,
    optimizer,
    run,
    stage,
    stitched,
    tensor,
)
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.config.schema import Config
from vlmforge.errors import Problem

_PARTS = (
    model,
    image_cache,
    fields,
    stitched,
    layers,
    mesh,
    tensor,
    context,
    data,
    blend,
    stage,
    optimizer,
    run,
    launch,
)
RULES: tuple[Rule, ...] = tuple(rule for part in _PARTS for rule in part.RULES)


def check(
    config: Config, origins: Origins, facts: Facts, unknown: Collection[str] = (), rules: Sequence[Rule] = RULES
) -> list[Problem]:
    """Every broken rule of a decoded config.

    Args:
        config: with defaults where a value could not be read.
        origins: who said what.
        facts: what the rules must be told.
        unknown: paths of values or sections that could not be read; no rule that rests on one is reported.
        rules: which; all by default.
    """
    subject = Subject(config, origins, facts)
    findings = [finding for rule in rules for finding in rule(subject)]
    return [_problem(finding, origins) for finding in findings if not _rests_on(finding, unknown)]


def _rests_on(finding: Finding, unknown: Collection[str]) -> bool:
    """Whether a value that the finding is about, or the section around it, could not be read."""
    return any(path == wrong or path.startswith(f"{wrong}.") for path in finding.paths for wrong in unknown)


def _problem(finding: Finding, origins: Origins) -> Problem:
    """Blames a key that somebody set, on the command line if one was: that is what was changed last."""
    said = [path for path in finding.paths if path in origins]
    said.sort(key=lambda path: not origins[path].startswith(COMMAND_LINE))
    return Problem(finding.what, origins.where(said[0] if said else finding.paths[0]), finding.fix)
