"""Token by token, the text is the text of all of them."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlmforge.models.tokenizer import build_byte_tokenizer
from vlmforge.preview.pieces import split_pieces


@pytest.fixture(scope="module")
def metaspace():
    """Words with the space before them, as SentencePiece has them."""
    vocab = {"<unk>": 0, "\u2581a": 1, "\u2581kite": 2, "s": 3, "</s>": 4}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def test_tokens_that_share_a_character_share_a_piece():
    tokenizer = build_byte_tokenizer()
    text = "a \u00e9\U0001f600<|im_end|>"
    pieces = [*split_pieces(tokenizer(text)["input_ids"], [], tokenizer)]
    assert [(piece.text, piece.num_tokens) for piece in pieces] == [
        ("a", 1),
        (" ", 1),
        ("\u00e9", 2),
        ("\U0001f600", 4),
        ("<|im_end|>", 1),
    ]


def test_bytes_that_are_no_character_are_shown_and_lose_no_token():
    tokenizer = build_byte_tokenizer()
    broken = [*tokenizer("a\u00e9b")["input_ids"]]
    del broken[2]
    pieces = [*split_pieces(broken * 9, [], tokenizer)]
    assert sum(piece.num_tokens for piece in pieces) == len(broken) * 9
    assert "\ufffd" in "".join(piece.text for piece in pieces)


def test_spaces_before_words_are_kept(metaspace):
    pieces = split_pieces([1, 2, 3, 1, 2, 4], [], metaspace)
    assert [piece.text for piece in pieces] == ["a", " kite", "s", " a", " kite", "</s>"]


def test_a_picture_is_one_piece(metaspace):
    pieces = [*split_pieces([1, 0, 0, 0, 2, 0, 4], [(1, 4), (5, 6)], metaspace)]
    assert [(piece.text, piece.num_tokens, piece.image) for piece in pieces] == [
        ("a", 1, 0),
        ("", 3, 1),
        ("kite", 1, 0),
        ("", 1, 2),
        ("</s>", 1, 0),
    ]
