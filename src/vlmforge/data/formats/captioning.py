"""Format `captioning`: a picture and its caption, as a question from the prompt lists and the caption as its answer.

Megatron's pretraining reads energon's CaptioningSample so: no system turn, the picture, a line, the prompt, a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmforge.data.formats.base import Format, Guidance
from vlmforge.data.formats.single_turn import ask, choose_line, clean_answer
from vlmforge.data.prompts import choose_prompt
from vlmforge.data.sample import Place, Sample


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A question about a picture."""
    chance = guidance.random()
    captions = fields["caption"] if isinstance(fields["caption"], list) and fields["caption"] else [fields["caption"]]
    caption = clean_answer(chance.choice(captions), "caption", place)
    if guidance.subflavors.get("SplitByLine"):
        caption = choose_line(caption, chance)
    prompt = fields.get("prompt")
    if prompt is None:
        prompt = choose_prompt(guidance.prompts, "CaptioningPretraining", "raw", chance, place.where)
    return ask(f"<image>\n{prompt}\n", caption, fields["image"], place, guidance, system=None)


CAPTIONING = Format(name="captioning", required=("image", "caption"), optional=("prompt",), parse_fields=_parse)
