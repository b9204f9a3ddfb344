"""The processor of an exported stitched model sees a picture as training does, and takes no words that it ignores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlmforge.data.media import Media
from vlmforge.models.stitched_images import prepare_tokenizer
from vlmforge.models.stitched_processor import StitchedProcessor
from vlmforge.models.tiling import StitchedImageProcessor
from vlmforge.models.tokenizer import build_byte_tokenizer

GREY = (np.arange(60 * 40, dtype=np.uint16) * 27).reshape(40, 60)
COLOURS = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)


@pytest.fixture(scope="module")
def processor() -> StitchedProcessor:
    pictures = StitchedImageProcessor(tile_size=32, max_tiles=2, tile_tokens=4)
    tokenizer = build_byte_tokenizer()
    prepare_tokenizer(tokenizer, pictures)
    return StitchedProcessor(pictures, tokenizer)


def save_turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(COLOURS[..., :3]).save(path, exif=exif)


def save(path: Path, kind: str) -> None:
    if kind.isdigit():
        save_turned(path, int(kind))
    elif kind == "grey of 16 bits":
        Image.fromarray(GREY).save(path)
    elif kind == "palette with a transparent colour":
        Image.fromarray(COLOURS[..., :3]).quantize(16).save(path, transparency=3)
    else:
        Image.fromarray(COLOURS).convert(kind).save(path)


@pytest.mark.parametrize(
    "kind", [*"12345678", "grey of 16 bits", "palette with a transparent colour", "RGBA", "LA", "L", "1"]
)
def test_a_picture_is_seen_as_in_training(kind: str, processor: StitchedProcessor, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    save(path, kind)
    trained: Any = Media(None, str(path), "picture").decode()
    expected = processor.image_processor.preprocess([trained])["pixel_values"]
    with Image.open(path) as picture:
        seen = processor(images=picture, text="<image>?", return_tensors="pt")
    assert torch.equal(seen["pixel_values"], expected)
    assert seen["input_ids"].shape[1] == 4 * len(expected) + 1


def test_words_without_an_effect_are_refused(processor: StitchedProcessor) -> None:
    with pytest.raises(TypeError, match="max_length is not known to the processor of a stitched model"):
        processor(text="Hi", max_length=3)
    with pytest.raises(TypeError, match="give pictures of PIL"):
        processor(images=np.zeros((4, 4, 3), np.uint8), text="<image>")
    with pytest.raises(ValueError, match="1 of <image> for 0 pictures"):
        processor(text="<image>", videos=None)
    with pytest.raises(TypeError, match="size"):
        processor.image_processor.preprocess(Image.new("RGB", (4, 4)), size=8)
