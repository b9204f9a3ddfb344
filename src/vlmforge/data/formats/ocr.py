"""Format `ocr`: a picture and the text in it, with or without where it stands.

The key chooses what is asked, as in Megatron's multimodal examples: `pdfa` for the text of a page, `multi` for every
piece of text with its region, otherwise, by a coin, a text's region or a region's text. A region is four numbers (two
corners) or eight (four corners). Without boxes and without such a key it is read as a page.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from vlmforge.data.formats.base import Format, Guidance, require_text
from vlmforge.data.formats.single_turn import ask, choose_line
from vlmforge.data.formats.turns import IMAGE
from vlmforge.data.prompts import choose_prompt, fill_prompt
from vlmforge.data.sample import Place, Sample

_CATEGORY = "DocPretraining"


def _parse(fields: Mapping[str, Any], place: Place, guidance: Guidance) -> Sample:
    """A question about the text in a picture."""
    chance = guidance.random()
    if "pdfa" in guidance.key or fields.get("words_boxes") is None:
        question, answer = _ask_page(fields, place, guidance, chance)
    elif "multi" in guidance.key:
        question, answer = _ask_all(fields, place, guidance, chance)
    else:
        question, answer = _ask_one(fields, place, guidance, chance)
    return ask(question, answer, fields["image"], place, guidance)


def _ask_page(fields: Mapping[str, Any], place: Place, guidance: Guidance, chance: random.Random) -> tuple[str, str]:
    """The whole text, or a line of it."""
    text = _read_text(fields, place)
    question = choose_prompt(guidance.prompts, _CATEGORY, "raw", chance, place.where)
    return question, choose_line(text, chance) if guidance.subflavors.get("SplitByLine") else text


def _ask_all(fields: Mapping[str, Any], place: Place, guidance: Guidance, chance: random.Random) -> tuple[str, str]:
    """Every piece of text with its region."""
    boxes, texts = fields["words_boxes"], fields.get("words_text")
    if not _is_nested(boxes):
        boxes, texts = [boxes], [_read_text(fields, place)]
    if not isinstance(texts, list) or len(texts) != len(boxes):
        raise place.error(f"words_text must hold {len(boxes)} texts, one for each of words_boxes", "mend the row")
    pieces = [
        f"<ref>{_clean(str(text))}</ref>{_write_region(box, place)}" for box, text in zip(boxes, texts, strict=True)
    ]
    return choose_prompt(guidance.prompts, _CATEGORY, "ocr_multi", chance, place.where), "".join(pieces)


def _ask_one(fields: Mapping[str, Any], place: Place, guidance: Guidance, chance: random.Random) -> tuple[str, str]:
    """Where a text stands, or what stands there."""
    text, boxes = _read_text(fields, place), fields["words_boxes"]
    region = _write_region(boxes[0] if _is_nested(boxes) and len(boxes) == 1 else boxes, place)
    asks_for_region = chance.random() < 0.5
    variant = "referring_grounding" if asks_for_region else "grounded_ocr"
    prompt = choose_prompt(guidance.prompts, _CATEGORY, variant, chance, place.where)
    return (fill_prompt(prompt, text), region) if asks_for_region else (fill_prompt(prompt, region), text)


def _read_text(fields: Mapping[str, Any], place: Place) -> str:
    """The text in the picture; a tag in it is none of ours."""
    return require_text(_clean(require_text(fields["text"], "text", place)), "text", place)


def _clean(text: str) -> str:
    return text.replace(IMAGE, "").strip()


def _is_nested(boxes: Any) -> bool:
    """Whether there are several boxes."""
    return isinstance(boxes, list) and bool(boxes) and isinstance(boxes[0], list)


def _write_region(box: Any, place: Place) -> str:
    """A box of two corners, or a quadrangle of four."""
    is_region = isinstance(box, Sequence) and len(box) in (4, 8) and all(isinstance(v, int | float) for v in box)
    if not is_region:
        fix = "give x1, y1, x2, y2, or the corners of a quadrangle"
        raise place.error(f"words_boxes has {str(box)[:80]}, which is not 4 or 8 numbers", fix)
    name = "box" if len(box) == 4 else "quad"
    corners = ",".join(f"({box[k]},{box[k + 1]})" for k in range(0, len(box), 2))
    return f"<{name}>{corners}</{name}>"


OCR = Format(name="ocr", required=("image", "text"), optional=("words_boxes", "words_text"), parse_fields=_parse)
