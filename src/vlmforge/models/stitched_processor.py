"""The processor of a stitched model for plain transformers: texts and pictures in, the model's inputs out.

Importing this file makes `AutoProcessor` know it. It makes the tokens that training makes, by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import ProcessorMixin

from vlmforge.models.stitched_config import StitchedConfig
from vlmforge.models.stitched_images import StitchedRule
from vlmforge.models.tiling import StitchedImageProcessor

# A picture is a picture; of films transformers passes none to this class.
NUM_FRAMES = 1

# The EXIF tag of how a camera was held, and for its values but 1, upright, what of PIL's Transpose makes it so.
ORIENTATION_TAG = 274
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


class StitchedProcessor(ProcessorMixin):
    """Tokenizer and image processor together; `processor(images=..., text=...)`."""

    def __init__(
        self,
        image_processor: StitchedImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Take both as `AutoProcessor` loads them from a folder."""
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template, **kwargs)
        self.image_token = image_processor.special_tokens[0]
        token_id: Any = tokenizer.convert_tokens_to_ids(self.image_token)
        self.image_token_id = token_id
        self._rule = StitchedRule(image_processor, token_id, image_processor.tile_tokens, tokenizer, NUM_FRAMES)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        padding: bool | str = False,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
        **kwargs: Any,
    ) -> BatchFeature:
        """`input_ids`, `attention_mask`, and `pixel_values` `[tiles, 3, S, S]` of all pictures where there are any.

        Args:
            images: a picture of PIL, or a list of them (of lists), in the order of the texts' image tokens.
            text: with an image token for each picture, as the chat template writes it.
            padding: to the longest text.
            return_tensors: `pt` for tensors.
            add_special_tokens: whether the tokenizer adds its own, such as BOS.
            kwargs: none that this processor knows; callers of several kinds of models give them as None.

        Raises:
            TypeError: a keyword argument is none of the above, or a picture is none of PIL.
            ValueError: there are more or fewer image tokens than pictures.
        """
        unknown = [name for name, value in kwargs.items() if value is not None]
        if unknown:
            known = "images, text, padding, return_tensors and add_special_tokens"
            raise TypeError(f"{unknown[0]} is not known to the processor of a stitched model, which takes {known}")
        texts = [text] if isinstance(text, str) else list(text or ())
        flat: Any = [] if images is None else make_flat_list_of_images(images)
        pictures = [_as_rgb(picture) for picture in flat]
        rows = [list(self.tokenizer(one, add_special_tokens=add_special_tokens)["input_ids"]) for one in texts]
        num_tokens = sum(row.count(self.image_token_id) for row in rows)
        if num_tokens != len(pictures):
            raise ValueError(f"the texts have {num_tokens} of {self.image_token} for {len(pictures)} pictures")
        sizes = iter([picture.size for picture in pictures])
        expanded = [self._expand(row, sizes) for row in rows]
        inputs = self.tokenizer.pad({"input_ids": expanded}, padding=padding, return_tensors=return_tensors)
        pixels = self.image_processor.preprocess(pictures)["pixel_values"] if pictures else None
        return BatchFeature({**inputs, **({} if pixels is None else {"pixel_values": pixels})})

    def _expand(self, row: Sequence[int], sizes: Any) -> list[int]:
        """A text's tokens with those of its pictures in the places of their image tokens."""
        ids: list[int] = []
        for token in row:
            if token != self.image_token_id:
                ids.append(token)
                continue
            layout = self._rule.measure(*next(sizes))
            ids = [*(self._rule.join(ids, layout.lead) if layout.lead else ids), *layout.ids]
        return ids


def _as_rgb(picture: Any) -> Any:
    """Upright and in three colours of eight bits, transparent parts white: as `data/media.py` makes it for training."""
    if not hasattr(picture, "getbands"):
        raise TypeError(f"a picture is a {type(picture).__name__}; give pictures of PIL, as Image.open does")
    if picture.format == "TIFF" or "exif" in picture.info:
        turn = TURNS.get(picture.getexif().get(ORIENTATION_TAG))
        picture = picture if turn is None else picture.transpose(turn)
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    over = picture.convert("RGBA")
    ground = over.copy()
    ground.paste((255, 255, 255, 255), (0, 0, *over.size))
    ground.alpha_composite(over)
    return ground.convert("RGB")


AutoProcessor.register(StitchedConfig, StitchedProcessor, exist_ok=True)
