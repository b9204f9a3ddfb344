"""The data formats by name; a new one is a file here and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Mapping

from vlmforge.data.formats.base import Format
from vlmforge.data.formats.messages import MESSAGES
from vlmforge.data.formats.prompt_response import PROMPT_RESPONSE
from vlmforge.data.formats.text import TEXT

__all__ = ["FORMATS", "Format"]

FORMATS: Mapping[str, Format] = {
    "text": TEXT,
    "messages": MESSAGES,
    "prompt_response": PROMPT_RESPONSE,
}
