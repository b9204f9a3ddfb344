"""Format `llava`: LLaVA's rows, `conversations` of human and gpt with `<image>` where the row's `image` stands.

`image` is one path or a list. Where no turn has a tag, pictures stand before the first question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmforge.data.formats.base import Format, Guidance
from vlmforge.data.formats.conversations import read_turns
from vlmforge.data.formats.turns import merge_media, open_parts
from vlmforge.data.sample import Place, Sample

_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A conversation, about pictures if the row has some."""
    turns = read_turns(fields["conversations"], "conversations", _ROLES, place)
    images = open_parts("image", fields.get("image"), place, "image")
    videos = open_parts("video", fields.get("video"), place, "video")
    return Sample(place, messages=merge_media(turns, images, videos, place))


LLAVA = Format(name="llava", required=("conversations",), optional=("image", "video"), parse_fields=_parse)
