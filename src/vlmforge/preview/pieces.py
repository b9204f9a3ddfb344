"""The text that each token adds to the tokens before it.

Decoding tokens one by one loses spaces (SentencePiece) and breaks characters that several tokens share (bytes), so
each token is decoded behind its neighbours, and tokens that share a character share a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What decoders write for bytes that are no character, or none yet.
_BROKEN = "\ufffd"
# More tokens than the four bytes of a character need: then the bytes are no character at all.
_MAX_SHARING = 8


@dataclass(frozen=True)
class Piece:
    """Some text and how many tokens it is made of: one, except where tokens share a character."""

    text: str
    num_tokens: int


def split_pieces(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """The text of tokens, cut where they are.

    Args:
        ids: the tokens of one sample.
        tokenizer: theirs.

    Returns:
        Pieces whose numbers of tokens add up to all of them.
    """
    pieces: list[Piece] = []
    context, start = 0, 0
    for stop in range(1, len(ids) + 1):
        before = _decode(tokenizer, ids[context:start])
        with_new = _decode(tokenizer, ids[context:stop])
        is_broken = with_new.endswith(_BROKEN) and not before.endswith(_BROKEN)
        if is_broken and stop - start < _MAX_SHARING and stop < len(ids):
            continue
        pieces.append(Piece(with_new[len(before) :], stop - start))
        context, start = start, stop
    return pieces


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
