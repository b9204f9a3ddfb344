"""The data formats by name; a new one is a file here and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Mapping

from vlmforge.data.formats.base import Format
from vlmforge.data.formats.captioning import CAPTIONING
from vlmforge.data.formats.energon import ENERGON
from vlmforge.data.formats.llava import LLAVA
from vlmforge.data.formats.messages import MESSAGES
from vlmforge.data.formats.multi_choice_vqa import MULTI_CHOICE_VQA
from vlmforge.data.formats.ocr import OCR
from vlmforge.data.formats.prompt_response import PROMPT_RESPONSE
from vlmforge.data.formats.sharegpt import SHAREGPT
from vlmforge.data.formats.similarity_interleaved import SIMILARITY_INTERLEAVED
from vlmforge.data.formats.text import TEXT
from vlmforge.data.formats.video_qa import VIDEO_QA
from vlmforge.data.formats.vqa import VQA

__all__ = ["FORMATS", "Format"]

FORMATS: Mapping[str, Format] = {
    "text": TEXT,
    "messages": MESSAGES,
    "prompt_response": PROMPT_RESPONSE,
    "llava": LLAVA,
    "sharegpt": SHAREGPT,
    "captioning": CAPTIONING,
    "vqa": VQA,
    "multi_choice_vqa": MULTI_CHOICE_VQA,
    "ocr": OCR,
    "similarity_interleaved": SIMILARITY_INTERLEAVED,
    "video_qa": VIDEO_QA,
    "energon": ENERGON,
}
