"""Format `video_qa`: a question about a film, with an answer or several that are weighted (energon's VidQASample)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlmforge.data.formats.base import Format, Guidance, require_text
from vlmforge.data.formats.single_turn import ask, choose_answer
from vlmforge.data.formats.turns import IMAGE, VIDEO
from vlmforge.data.sample import Place, Sample


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A question about a film."""
    question = require_text(fields["context"], "context", place).replace(IMAGE, VIDEO)
    weights = fields.get("answer_weights")
    answer = choose_answer(fields["answers"], weights, "answers", place, guidance.random())
    as_video = replace(guidance, subflavors={**guidance.subflavors, "has_video": True})
    return ask(question, answer, fields["video"], place, as_video)


VIDEO_QA = Format(
    name="video_qa", required=("video", "context", "answers"), optional=("answer_weights",), parse_fields=_parse
)
