"""Format `text`: plain text to continue, one document a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmforge.data.formats.base import Format, Guidance, require_text
from vlmforge.data.sample import Place, Sample


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A sample of plain text."""
    return Sample(place, text=require_text(fields["text"], "text", place))


TEXT = Format(name="text", required=("text",), optional=(), parse_fields=_parse)
