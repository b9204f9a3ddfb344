"""Prompt lists: what a picture without a question of its own is asked about.

A JSON file of category, variant and list, in the categories of Megatron's multimodal examples; `{}` in a prompt is
where the question goes. `default.json` comes with the package. Which prompt a sample gets depends on its seed alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlmforge.errors import DataError, Problem

Prompts = Mapping[str, Mapping[str, tuple[str, ...]]]
SLOT = "{}"


@lru_cache(maxsize=4)
def load_prompts(path: str | None) -> Prompts:
    """The prompt lists of a file; None: those of the package.

    Raises:
        DataError: the file cannot be read, or is laid out differently.
    """
    try:
        text = Path(path).read_text() if path else files(__name__).joinpath("default.json").read_text()
        content = json.loads(text)
    except (OSError, ValueError) as error:
        fix = "give a JSON file of category, variant and list of prompts, or leave data.prompts out"
        raise DataError(Problem(f"data.prompts = {path} cannot be read: {error}", str(path), fix)) from None
    # A comment of its author is a string among the categories.
    categories = content.items() if isinstance(content, dict) else ()
    prompts = {name: _read_category(variants) for name, variants in categories if not isinstance(variants, str)}
    wrong = next((name for name, variants in prompts.items() if variants is None), None)
    if wrong is not None or not prompts:
        what = f"data.prompts = {path}: {wrong or 'the file'} is not laid out as category, variant and list of prompts"
        raise DataError(Problem(what, str(path), 'for example  {"VQASFT": {"raw": ["{} Answer shortly."]}}'))
    return {name: variants for name, variants in prompts.items() if variants is not None}


def _read_category(variants: Any) -> dict[str, tuple[str, ...]] | None:
    """The lists of one category; None where they are none."""
    if not isinstance(variants, dict):
        return None
    if not all(
        isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts) for texts in variants.values()
    ):
        return None
    return {variant: tuple(texts) for variant, texts in variants.items()}


def choose_prompt(prompts: Prompts, category: str, variant: str, chance: random.Random, where: str) -> str:
    """One prompt of a list.

    Args:
        prompts: all lists.
        category: the first name of the list.
        variant: its second.
        chance: what chooses.
        where: the sample that needs it, for messages.

    Raises:
        DataError: there is no such list.
    """
    texts = prompts.get(category, {}).get(variant)
    if texts:
        return chance.choice(texts)
    there = ", ".join(f"{name}.{inner}" for name, variants in prompts.items() for inner in variants)
    what = f"data.prompts has no list {category}.{variant}, which samples of this kind are asked from; it has {there}"
    raise DataError(Problem(what, where, "add the list, or leave data.prompts out for the lists of the package"))


def fill_prompt(prompt: str, content: str) -> str:
    """A prompt with its content where `{}` stands; a prompt without `{}` stays as it is."""
    return prompt.replace(SLOT, content, 1)
