"""The text that each token adds to the tokens before it.

Decoding tokens one by one loses spaces (SentencePiece) and breaks characters that several tokens share (bytes), so
each token is decoded behind its neighbours, and tokens that share a character share a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Some text, or a picture, and how many tokens it is made of.

    Attributes:
        text: of the tokens; empty for a picture.
        num_tokens: one, except in pictures and where tokens share a character.
        image: number of the picture in its sample, from 1; 0: text.
    """

    text: str
    num_tokens: int
    image: int = 0


def split_pieces(
    ids: Sequence[int], images: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Piece]:
    """The text of tokens, cut where they are; a picture is one piece.

    Args:
        ids: the tokens of one sample.
        images: [start, stop) of the tokens of each picture, ascending.
        tokenizer: theirs.

    Yields:
        Pieces whose numbers of tokens add up to all of them.
    """
    at = 0
    for number, (start, stop) in enumerate(images, 1):
        yield from _split_text(ids[at:start], tokenizer)
        yield Piece("", stop - start, number)
        at = stop
    yield from _split_text(ids[at:], tokenizer)


def _split_text(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Pieces of tokens without pictures."""
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
