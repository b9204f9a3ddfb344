"""docs/migration.md names keys that exist, with values that are allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmforge.config.decode import decode
from vlmforge.config.foreign import FOREIGN
from vlmforge.config.keys import walk_keys
from vlmforge.config.origins import Origins
from vlmforge.config.schema import GROUPS, SECTIONS, Config

PAGE = Path(__file__).parents[1] / "docs" / "migration.md"
KEYS = {spec.path for spec in walk_keys(Config)}
QUOTED = re.compile(r"`([^`]+)`")
OURS = re.compile(rf"(?:{'|'.join((*GROUPS, *SECTIONS))})\.[\w.]+(?:=\S+)?")


def tables() -> Iterator[tuple[str, list[list[str]]]]:
    """The heading of each section that has a table, and the table's rows."""
    for section in PAGE.read_text().split("\n## ")[1:]:
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("|")]
        if rows:
            yield section.splitlines()[0], [[cell.strip() for cell in row] for row in rows]


TABLES = dict(tables())
ROWS = [(title, row) for title, rows in TABLES.items() for row in rows[2:]]


def keys_in(cell: str) -> list[str]:
    return QUOTED.findall(cell)


def test_each_rival_has_a_table() -> None:
    headings = [title.split()[1] for title in list(TABLES)[1:]]
    assert headings == ["TRL", "verl", "axolotl", "LLaMA-Factory"]
    assert all(rows[0][1] == "vlmforge" and len(rows) > 30 for rows in list(TABLES.values())[1:])


@pytest.mark.parametrize(("title", "row"), ROWS, ids=[f"{title}: {row[0]}" for title, row in ROWS])
def test_a_row_names_keys_of_ours_or_says_that_there_are_none(title: str, row: list[str]) -> None:
    assert len(row) == len(TABLES[title][0])
    named = keys_in(row[1])
    assert named or row[1] == "none"
    values: dict[str, Any] = {}
    # A note may name ours too, beside values and words of theirs.
    for text in [*named, *(word for word in keys_in(" ".join(row[2:])) if OURS.fullmatch(word))]:
        path, _, value = text.partition("=")
        assert path in KEYS, f"{path} is no key"
        if value:
            section, *between, name = path.split(".")
            holder = values.setdefault(section, {})
            for inner in between:
                holder = holder.setdefault(inner, {})
            holder[name] = yaml.safe_load(value)
    assert not decode(values, Origins("migration.md")).problems


@pytest.mark.parametrize(("theirs", "ours"), FOREIGN.items())
def test_whoever_types_a_key_of_theirs_is_told_what_the_page_says(theirs: str, ours: str) -> None:
    rows = [row for _, row in ROWS if theirs in {name.split(".")[-1] for name in keys_in(row[0])}]
    assert rows
    assert any(ours in keys_in(row[1]) for row in rows)


def test_the_prose_names_keys_that_exist() -> None:
    prose = [line for line in PAGE.read_text().partition("\n## From TRL")[0].splitlines() if not line.startswith("|")]
    for text in keys_in(" ".join(prose)):
        if OURS.fullmatch(text) and not text.startswith("data.train_"):
            assert text.partition("=")[0] in KEYS, text


def test_the_readme_leads_here() -> None:
    assert "docs/migration.md" in (PAGE.parents[1] / "README.md").read_text()
