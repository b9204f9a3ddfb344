"""The tokens of tile tags in both modes, with the part of Qwen's vocabulary that they are made of."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlmforge.data.images import Measured, expand_images
from vlmforge.data.media import Media
from vlmforge.errors import ConfigError
from vlmforge.models.stitched_images import StitchedRule
from vlmforge.models.tiling import StitchedImageProcessor, name_tiles

# fmt: off
# Tokens and their ids in Qwen2's and Qwen2.5's tokenizers, in the order in which they are merged.
VOCAB = {
    "/": 14, "0": 15, "1": 16, "2": 17, "3": 18, "4": 19, "5": 20, "6": 21, "7": 22,
    "8": 23, "9": 24, "<": 27, ">": 29, "?": 30, "I": 40,
    "W": 54, "_": 62, "a": 64, "b": 65, "e": 68, "g": 70, "h": 71, "i": 72, "l": 75, "m": 76, "n": 77, "o": 78,
    "r": 81, "s": 82, "t": 83, "u": 84, "\u010a": 198, "er": 261, "at": 266, "le": 273, "al": 278, "il": 321,
    "th": 339, "ag": 351, "us": 355, "um": 372, "lo": 385, ">\u010a": 397, "age": 424, "ile": 457, "</": 522,
    "ail": 604, "user": 872, "Im": 1427, "Wh": 1639, "lob": 1684, "><": 1784, "_g": 1889, "Image": 1906,
    "lobal": 2042, "umb": 3551, "What": 3838, "_th": 5854, "umbn": 9670, "umbnail": 11026, "_global": 19296,
    "tile": 21094, "_thumbnail": 37824, "<Image": 46465, "<|im_start|>": 151644, "<|vision_pad|>": 151654,
}
MERGES = [
    "e r", "a t", "l e", "a l", "i l", "t h", "a g", "u s", "u m", "l o", "> \u010a", "ag e", "i le", "< /", "a il",
    "us er", "I m", "W h", "lo b", "> <", "_ g", "Im age", "lob al", "um b", "Wh at", "_ th", "umb n", "umbn ail",
    "_g lobal", "t ile", "_th umbnail", "< Image",
]
# fmt: on
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PAD = "<|vision_pad|>"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(vocab=VOCAB, merges=[(pair.split()[0], pair.split()[1]) for pair in MERGES]))
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend)
    made.add_tokens(["<|im_start|>", PAD], special_tokens=True)
    return made


def rule_of(tokenizer: PreTrainedTokenizerFast, mode: str, max_tiles: int = 6) -> StitchedRule:
    processor = StitchedImageProcessor(
        tile_size=32, max_tiles=max_tiles, tile_tags="default", tokenization=mode, special_tokens=[PAD]
    )
    rule = StitchedRule(processor, int(tokenizer.convert_tokens_to_ids(PAD)), 4, tokenizer, 1)
    rule.check_tags()
    return rule


@pytest.mark.parametrize(("max_tiles", "count"), [(6, 5), (12, 6)])
def test_a_tag_has_five_tokens_of_qwen_and_six_with_two_digits(
    tokenizer: PreTrainedTokenizerFast, max_tiles: int, count: int
) -> None:
    numbered, thumbnail = name_tiles("default", max_tiles)
    assert {len(tokenizer(tag)["input_ids"]) for tag in (*numbered, thumbnail)} == {count}
    rule = rule_of(tokenizer, "megatron", max_tiles)
    assert len(rule.measure(64, 32).ids) == 3 * (count + 4)


# The end of `<Image>` and the beginning of the first tag.
SEAMS = {"megatron": [46465, 29, 27, 21094], "hf": [46465, 1784, 21094]}


@pytest.mark.parametrize("mode", SEAMS)
@pytest.mark.parametrize("tags", [["<tile_1>", "<tile_2>", "<tile_global_thumbnail>"], ["<tile_global_thumbnail>"]])
def test_a_first_tag_joins_the_text_before_it_in_one_mode_alone(
    mode: str, tags: list[str], tokenizer: PreTrainedTokenizerFast
) -> None:
    rule = rule_of(tokenizer, mode)
    before, after = "<|im_start|>user\n<Image>", "</Image>\nWhat?"
    ids = tokenizer(before + PAD + after)["input_ids"]
    pictures = [Measured(Media(b"", None, "picture"), rule.measure(32 * max(1, len(tags) - 1), 32), 0)]
    expanded, is_label, (span,) = expand_images(ids, [True] * len(ids), rule.placeholder_id, pictures, join=rule.join)
    whole = before + "".join(tag + 4 * PAD for tag in tags) + after
    assert tokenizer.decode(expanded) == whole
    assert expanded[3 : 3 + len(SEAMS[mode])] == SEAMS[mode]
    assert expanded.count(rule.placeholder_id) == 4 * len(tags)
    assert (expanded == tokenizer(whole)["input_ids"]) == (mode == "hf")
    # What is the picture's is not trained, a token that it shares with the text included.
    first = 5 if mode == "megatron" else 4
    assert is_label == [True] * first + [False] * (span.stop - first) + [True] * (len(expanded) - span.stop)


def test_a_tokenizer_that_cannot_be_read_back_is_refused_in_that_mode(tokenizer: PreTrainedTokenizerFast) -> None:
    rule = rule_of(tokenizer, "hf")
    # `<` and `Image` apart, as no text gives them.
    with pytest.raises(ConfigError, match="cannot make tokens of a text twice alike"):
        rule.join([27, 1906, 29], "<tile_1>")
