"""Format `prompt_response`: one question and its answer, both strings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmforge.data.formats.base import Format, Guidance, require_text
from vlmforge.data.sample import Place, Sample


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A sample of a prompt and a response."""
    return Sample(
        place,
        prompt=require_text(fields["prompt"], "prompt", place),
        response=require_text(fields["response"], "response", place),
    )


PROMPT_RESPONSE = Format(name="prompt_response", required=("prompt", "response"), optional=(), parse_fields=_parse)
