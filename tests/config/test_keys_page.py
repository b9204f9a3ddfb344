"""The page of keys is the schema's."""

from pathlib import Path

from vlmforge.config.keys import walk_keys
from vlmforge.config.keys_page import render
from vlmforge.config.schema import Config

PAGE = Path(__file__).parents[2] / "docs" / "config-keys.md"


def test_the_page_of_keys_is_current() -> None:
    assert PAGE.read_text() == render(), "run: python -m vlmforge.config.keys_page"


def test_every_key_is_documented_in_a_sentence() -> None:
    for spec in walk_keys(Config):
        assert spec.info.doc.endswith("."), spec.path
