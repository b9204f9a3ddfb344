"""Format `sharegpt`: `conversations` of from and value, with tools, pictures and films if there are any.

The columns are those that LLaMA-Factory reads: `images`, `videos`, `system`, `tools`; calls of functions are turns of
`function_call`, their results turns of `observation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmforge.data.formats.base import Format, Guidance
from vlmforge.data.formats.conversations import read_turns
from vlmforge.data.formats.messages import read_tools
from vlmforge.data.formats.turns import merge_media, open_parts
from vlmforge.data.sample import Place, Sample

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "function_call": "function_call",
    "observation": "tool",
    "tool": "tool",
}


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A conversation."""
    turns = read_turns(fields["conversations"], "conversations", _ROLES, place)
    system = fields.get("system")
    if isinstance(system, str) and system.strip():
        turns = [{"role": "system", "content": system}, *turns]
    images = open_parts("image", fields.get("images"), place, "images")
    videos = open_parts("video", fields.get("videos"), place, "videos")
    return Sample(
        place,
        messages=merge_media(turns, images, videos, place),
        tools=read_tools(fields, place),
    )


SHAREGPT = Format(
    name="sharegpt",
    required=("conversations",),
    optional=("images", "videos", "system", "tools"),
    parse_fields=_parse,
)
