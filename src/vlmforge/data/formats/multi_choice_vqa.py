"""Format `multi_choice_vqa`: a question about a picture with options, answered by a letter."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from vlmforge.data.formats.base import Format, Guidance, require_text
from vlmforge.data.formats.single_turn import ask
from vlmforge.data.formats.turns import list_values
from vlmforge.data.sample import Place, Sample

_CLOSING = "Answer with the letter of the right option alone."
_LETTERS = string.ascii_uppercase


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """The question, its options a line each, and what to answer with."""
    question = require_text(fields["context"], "context", place)
    choices = list_values(fields["choices"])
    if not 1 < len(choices) <= len(_LETTERS):
        fix = "write choices as a list of strings"
        raise place.error(f"choices holds {len(choices)} options; there must be 2 to {len(_LETTERS)}", fix)
    index = _read_index(fields["correct_choice_idx"], len(choices), place)
    options = [f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=False)]
    return ask("\n".join([question, *options, _CLOSING]), _LETTERS[index], fields["image"], place, guidance)


def _read_index(value: Any, count: int, place: Place) -> int:
    """The right option, counted from 0."""
    text = str(value).strip()
    if not isinstance(value, bool) and text.isdigit() and int(text) < count:
        return int(text)
    raise place.error(
        f"correct_choice_idx = {value!r} must be a number from 0 to {count - 1}", "options are counted from 0"
    )


MULTI_CHOICE_VQA = Format(
    name="multi_choice_vqa",
    required=("image", "context", "choices", "correct_choice_idx"),
    optional=(),
    parse_fields=_parse,
)
