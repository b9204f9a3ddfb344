"""`vlmforge recipes`: what can be run by name."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from vlmforge.commands.request import Request
from vlmforge.config.compose import compose
from vlmforge.config.decode import decode
from vlmforge.config.recipes import RecipeFile, list_recipes, summary_of
from vlmforge.config.schema import Config, ParallelismConfig
from vlmforge.errors import EXIT_OK
from vlmforge.models import FAMILIES

HEADINGS = ("recipe", "model", "stage", "mesh", "what it does")


@dataclass(frozen=True)
class Row:
    """One line of the table, in the order of `HEADINGS`."""

    name: str
    model: str
    stage: str
    mesh: str
    summary: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The row's texts."""
        return (self.name, self.model, self.stage, self.mesh, self.summary)


def run(request: Request) -> int:
    """Print the table; on a terminal it is drawn, elsewhere it is plain columns."""
    rows = [_describe(found) for found in list_recipes()]
    if sys.stdout.isatty():
        _draw(rows)
    else:
        print(_plain_table(rows))
    return EXIT_OK


def _describe(found: RecipeFile) -> Row:
    composed = compose(str(found.path), [], FAMILIES)
    if composed.missing:
        # `validate` says what is wrong; a list that stops at one broken file would hide the others.
        return Row(found.name, "?", "?", "?", f"broken: see `vlmforge validate recipe={found.name}`")
    config = decode(composed.values, composed.origins).config
    return Row(found.name, _model(config), config.stage.kind, mesh_of(config.parallelism), summary_of(found.path))


def _model(config: Config) -> str:
    pretrained = config.model.pretrained
    return pretrained.rpartition("/")[2] if pretrained else f"{config.model.family} (random)"


def mesh_of(parallelism: ParallelismConfig) -> str:
    """The axes that have more than one rank."""
    axes = {name: getattr(parallelism, name) for name in ("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep")}
    used = [f"{name}={'all' if size == -1 else size}" for name, size in axes.items() if size != 1]
    return " ".join(used) or "1 rank"


def _plain_table(rows: list[Row]) -> str:
    table = [HEADINGS, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def _draw(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADINGS, box=None, header_style="bold", padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row.cells)
    Console().print(table)
