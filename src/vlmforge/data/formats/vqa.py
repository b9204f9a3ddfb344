"""Format `vqa`: a question about a picture, with an answer or several that are weighted.

Read as Megatron reads energon's VQASample: LLaVA's pretraining data (its key or subflavor says so) has no question but
the picture; document questions and the subflavor `VQASFT` get a prompt around the question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmforge.data.formats.base import Format, Guidance, require_text
from vlmforge.data.formats.single_turn import ask, choose_answer
from vlmforge.data.prompts import SLOT, choose_prompt, fill_prompt
from vlmforge.data.sample import Place, Sample


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A question about a picture."""
    chance = guidance.random()
    if "llava" in guidance.key or guidance.subflavors.get("is_llava_training"):
        answer = choose_answer(fields["answers"], fields.get("answer_weights"), "answers", place, chance)
        return ask("<image>\n", answer, fields["image"], place, guidance, system=None)
    prompt = SLOT
    if "docvqa" in guidance.key:
        prompt = choose_prompt(guidance.prompts, "VQASFT", "docvqa", chance, place.where)
    elif guidance.subflavors.get("VQASFT"):
        prompt = choose_prompt(guidance.prompts, "VQASFT", "raw", chance, place.where)
    question = fill_prompt(prompt, require_text(fields["context"], "context", place))
    answer = choose_answer(fields["answers"], fields.get("answer_weights"), "answers", place, chance)
    return ask(question, answer, fields["image"], place, guidance)


VQA = Format(name="vqa", required=("image", "context", "answers"), optional=("answer_weights",), parse_fields=_parse)
