"""Pictures of stitched models among tokens: what the tokenizer needs, and the rule that a picture becomes tokens by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from transformers import PreTrainedTokenizerBase

from vlmforge.config.chat_templates import strip_image_words, with_image_words
from vlmforge.errors import ConfigError, Problem
from vlmforge.models.family import Vision
from vlmforge.models.image_types import Grid, ImageLayout, ImageTensors
from vlmforge.models.square_tiles import SquareTiles, fewer_tiles
from vlmforge.models.tiling import StitchedImageProcessor, name_tiles

if TYPE_CHECKING:
    from PIL.Image import Image

# What stands around a picture. Only InternVL's are tokens of their own, where `special_tokens` names them.
IMAGE_TAGS = {"none": ("", ""), "internvl": ("<img>", "</img>"), "nvlm": ("<Image>", "</Image>")}

_PROBE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]


def build_stitched_processor(
    folder: Path | None, shape: Any, vision: Vision, own: Mapping[str, Any]
) -> StitchedImageProcessor:
    """The image processor of a stitched model.

    Args:
        folder: whose preprocessor_config.json rules; None: the family's defaults.
        shape: the model's config.
        vision: of its narrowed family.
        own: keys of `model.image` that the recipe sets; they win.

    Raises:
        ConfigError: the folder's image processor is of another kind.
    """
    sizes = {"tile_size": shape.vision_config.image_size, "tile_tokens": shape.image_seq_length}
    if folder is None:
        options: dict[str, Any] = {**vision.keys, "image_mean": vision.mean, "image_std": vision.std}
        return StitchedImageProcessor(**{**options, **own, **sizes})
    stored, _ = StitchedImageProcessor.get_image_processor_dict(folder)
    if stored.get("image_processor_type") != StitchedImageProcessor.__name__:
        problem = Problem(
            f"the folder's image processor is a {stored.get('image_processor_type')}; a stitched model needs ours",
            "model.pretrained",
            "give a folder that vlmforge wrote (`vlmforge convert`, or the export/ of a run)",
        )
        raise ConfigError(problem)
    processor = StitchedImageProcessor.from_pretrained(folder)
    # A tile's size and number of tokens are the model's, whose config may differ from the folder's.
    for name, value in {**own, **sizes}.items():
        setattr(processor, name, list(value) if isinstance(value, tuple) else value)
    return processor


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, processor: StitchedImageProcessor) -> None:
    """Give a tokenizer the special tokens, and its chat template the words of a picture, in place.

    Tokens that mark places in pictures (`<box>`) are no special ones: decoded text shows them.

    Raises:
        ConfigError: it has some of the tokens and lacks others.
    """
    words = processor.special_tokens
    known = tokenizer.get_vocab()
    missing = [word for word in words if word not in known]
    if missing and len(missing) < len(words):
        problem = Problem(
            f"the tokenizer has {next(word for word in words if word in known)} and lacks {missing[0]}; it must have "
            "all of model.image.special_tokens or none",
            "model.image.special_tokens",
            "name tokens that belong together, or use the tokenizer that the model was made from",
        )
        raise ConfigError(problem)
    hidden = {words[0], *IMAGE_TAGS["internvl"]}
    for word in missing:
        tokenizer.add_tokens([word], special_tokens=word in hidden)
    if tokenizer.chat_template:
        start, end = IMAGE_TAGS[processor.image_tag]
        plain = strip_image_words(str(tokenizer.chat_template))
        tokenizer.chat_template = with_image_words(plain, start, words[0], end)


def derive_stitched_rule(
    shape: Any, processor: StitchedImageProcessor, tokenizer: PreTrainedTokenizerBase, num_frames: int
) -> StitchedRule:
    """The rule of a stitched model that exists.

    Raises:
        ConfigError: the tokenizer's ids do not fit the model, its template writes no pictures, or tags differ in
            length.
    """
    word = processor.special_tokens[0]
    _check_ids(shape, processor.special_tokens, tokenizer)
    _check_template(tokenizer, word, processor.image_tag)
    rule = StitchedRule(processor, int(shape.image_token_id), shape.image_seq_length, tokenizer, num_frames)
    rule.check_tags()
    return rule


def _check_ids(shape: Any, words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.get_vocab()
    if ids.get(words[0]) != shape.image_token_id:
        problem = Problem(
            f"model.config.image_token_id = {shape.image_token_id}, and {words[0]} has the id {ids.get(words[0])} in "
            "the tokenizer",
            "model.config.image_token_id",
            f"model.config.image_token_id={ids.get(words[0])}",
        )
        raise ConfigError(problem)
    # A picture's own token is replaced before it is looked up; the others are not.
    rows = shape.get_text_config().vocab_size
    beyond = [word for word in words[1:] if ids.get(word, 0) >= rows]
    if beyond:
        problem = Problem(
            f"{beyond[0]} has the id {ids[beyond[0]]}, and the language model's table has {rows} rows",
            "model.config.text_config.vocab_size",
            f"a table of {max(ids[word] for word in beyond) + 1} rows or more (`vlmforge convert` adds rows), or fewer "
            "model.image.special_tokens",
        )
        raise ConfigError(problem)


def _check_template(tokenizer: PreTrainedTokenizerBase, word: str, image_tag: str) -> None:
    """A template of the language model alone may drop a picture, or write it without its tags."""
    if not tokenizer.chat_template:
        return
    start, end = IMAGE_TAGS[image_tag]
    try:
        text = str(tokenizer.apply_chat_template(_PROBE, tokenize=False))
    except (jinja2.TemplateError, TypeError) as error:
        text = str(error)
    if f"{start}{word}{end}" not in text:
        problem = Problem(
            f"the chat template does not write a picture as {start}{word}{end}",
            "model.chat_template",
            "use one of ours, for example model.chat_template=builtin:chatml or builtin:llama3p1",
        )
        raise ConfigError(problem)


class StitchedRule(SquareTiles):
    """Square tiles, each as many tokens, behind its tag where tiles have tags."""

    # Megatron gives the token after a picture, which the picture's last one would predict, a weight of zero.
    masks_next = True

    def __init__(
        self,
        processor: StitchedImageProcessor,
        placeholder_id: int,
        num_tokens: int,
        tokenizer: PreTrainedTokenizerBase,
        num_frames: int,
    ) -> None:
        """Prepare.

        Args:
            processor: chooses and makes tiles.
            placeholder_id: of the tokenizer.
            num_tokens: of a tile without its tag.
            tokenizer: makes tokens of tags.
            num_frames: of a film that are seen.
        """
        ids = tokenizer.get_vocab()
        tags = frozenset(ids[tag] for tag in IMAGE_TAGS[processor.image_tag] if tag in ids)
        super().__init__(processor, placeholder_id, tags, num_tokens, num_frames)
        self._tokenizer = tokenizer
        names, thumbnail = ("",) * processor.max_tiles, ""
        if processor.tile_tags != "none":
            names, thumbnail = name_tiles(processor.tile_tags, processor.max_tiles)
        self._names, self._thumbnail = names, thumbnail
        self._tags = [self._encode(name) for name in names]
        self._last_tag = self._encode(thumbnail)
        self._added = frozenset(tokenizer.added_tokens_decoder)

    @property
    def max_tiles(self) -> int:
        """Of a picture."""
        return self.processor.max_tiles

    def count_tiles(self, grid: Grid) -> int:
        """Tiles of a picture, its thumbnail included."""
        return self.processor.count_tiles(grid[2], grid[1])

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def join(self, before: list[int], lead: str) -> list[int]:
        """See `ImageRule`; what is made anew begins behind the last added token, where a tokenizer begins anew too.

        Raises:
            ConfigError: the tokenizer does not make the same tokens again of the text before a picture.
        """
        start = next((k for k in range(len(before), 0, -1) if before[k - 1] in self._added), 0)
        text = str(self._tokenizer.decode(before[start:], clean_up_tokenization_spaces=False))
        if self._encode(text) != tuple(before[start:]):
            problem = Problem(
                "model.image.tokenization = hf: this tokenizer cannot make tokens of a text twice alike, as it must to "
                "join a tag with the text before it",
                "model.image.tokenization",
                "model.image.tokenization=megatron",
            )
            raise ConfigError(problem)
        return [*before[:start], *self._encode(text + lead)]

    def check_tags(self) -> None:
        """Refuse tags of different lengths: upstream counts each tile as one number of tokens.

        Raises:
            ConfigError: the tokenizer makes them so.
        """
        lengths = {len(tag) for tag in (*self._tags, self._last_tag)}
        if len(lengths) > 1:
            problem = Problem(
                f"the tags of tiles have {min(lengths)} to {max(lengths)} tokens in this tokenizer, and must have as "
                "many all",
                "model.image.tile_tags",
                "model.image.tile_tags=none, or another of default, yi and llama3p1",
            )
            raise ConfigError(problem)

    def measure(self, width: int, height: int) -> ImageLayout:
        """See `ImageRule`."""
        columns, rows = self.processor.choose_grid(width, height)
        count = self.processor.count_tiles(columns, rows)
        tags = [*self._tags[: count - 1], self._last_tag]
        lead = ""
        if self.processor.tokenization == "hf":
            lead, tags[0] = [*self._names[: count - 1], self._thumbnail][0], ()
        features = (self.placeholder_id,) * self.num_tokens
        return ImageLayout(tuple(token for tag in tags for token in (*tag, *features)), (1, rows, columns), lead)

    def shrink(self) -> StitchedRule | None:
        """See `ImageRule`: the next fewer tiles."""
        smaller = copy(self)
        smaller.processor = copy(self.processor)
        smaller.processor.max_tiles = fewer_tiles(self.max_tiles)
        return smaller if smaller.max_tiles else None

    def make_tensors(self, pictures: Sequence[Image], grids: Sequence[Grid]) -> ImageTensors:
        """See `ImageRule`."""
        made = self.processor.preprocess(list(pictures))
        assert made["num_tiles"] == [*map(self.count_tiles, grids)], "pictures of another size than told"
        return ImageTensors(made["pixel_values"])
