"""Text to tokens, such that what stands before a turn has the ids it would have alone.

The ids that generation starts from are a prefix of the ids trained on. A text is tokenized as a whole where that leaves
them untouched, and cut where a turn starts otherwise.

A tokenizer cuts a text at added tokens before all else, so what begins with one has the same ids whatever stands before
it. That is made use of twice: a prompt need not be tokenized again to see that its ids are a prefix, and where pieces
of a conversation can be told from their tokens alone, nobody asks where in the text each token stands.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoding:
    """Tokens with the place of each in the text."""

    ids: list[int]
    starts: list[int]


@dataclass(frozen=True)
class TokenSpan:
    """What a stretch of text became.

    Attributes:
        first: its first token.
        stop: the token after its last.
        marker: its last token but for white space.
    """

    first: int
    stop: int
    marker: int


class Encoder:
    """Tokenizes with one fast tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a tokenizer, whose added tokens stay as they are from now on."""
        self._tokenizer = tokenizer
        # What calling the tokenizer does for every text again; a fifth of the time goes into it.
        self._backend: Any = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        added: Any = tokenizer.get_added_vocab()  # type: ignore[operator]
        self._added_ids = frozenset(added.values())
        self._added_pattern = _compile_added(self._backend)
        # Before nearly every turn of a data set stands the same header.
        self._encode_tail = lru_cache(maxsize=64)(lambda text: self.encode(text, 0, is_template=True).ids)

    def encode(self, text: str, offset: int, *, is_template: bool) -> Encoding:
        """Tokens of a piece of text that starts at character `offset`; BOS only outside templates, eos never."""
        add_special_tokens = offset == 0 and not is_template
        tokens = self._backend.encode(text, add_special_tokens=add_special_tokens)
        ids, starts = tokens.ids, [offset + start for start, _ in tokens.offsets]
        if add_special_tokens and ids and ids[-1] == self._tokenizer.eos_token_id:
            ids, starts = ids[:-1], starts[:-1]
        return Encoding(ids, starts)

    def encode_spans(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[TokenSpan]]:
        """Tokenize a conversation as `encode_turns`, and find assistant turns among its tokens.

        Args:
            text: of the chat template.
            spans: [start, end) of each assistant turn with its end marker, in characters.
        """
        return self._encode_pieces(text, spans) or self._encode_whole(text, spans)

    def _encode_whole(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[TokenSpan]]:
        """The same by where each token stands in the text."""
        encoding, first_tokens = self.encode_turns(text, [start for start, _ in spans])
        found: list[TokenSpan] = []
        for (_, end), first in zip(spans, first_tokens, strict=True):
            stop = bisect_left(encoding.starts, end, lo=first)
            marker_end = len(text[:end].rstrip())
            found.append(TokenSpan(first, stop, bisect_left(encoding.starts, marker_end, hi=stop) - 1))
        return encoding.ids, found

    def _encode_pieces(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[TokenSpan]] | None:
        """The same by pieces that begin with an added token; None: the text has no such pieces."""
        cuts = self._find_cuts(text, spans)
        if cuts is None:
            return None
        borders = [0, *(at for pair in cuts for at in pair), len(text)]
        pieces = [text[a:b] for a, b in pairwise(borders)]
        encoded = [made.ids for made in self._backend.encode_batch_fast(pieces, add_special_tokens=False)]
        ids: list[int] = list(encoded[0])
        found: list[TokenSpan] = []
        for k, ((start, end), (header_at, marker_at)) in enumerate(zip(spans, cuts, strict=True)):
            said, after = encoded[2 * k + 1], encoded[2 * k + 2]
            header, tail = self._encode_tail(text[header_at:start]), self._encode_tail(text[marker_at:end])
            if said[: len(header)] != header or after[: len(tail)] != tail:
                return None
            first = len(ids) + len(header)
            ids += said
            found.append(TokenSpan(first, len(ids) + len(tail), len(ids)))
            ids += after
        return ids, found

    def _find_cuts(self, text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]] | None:
        """Where the header of each assistant turn begins, and its end marker; None: one is no added token."""
        if self._added_pattern is None:
            return None
        added = [match.span() for match in self._added_pattern.finditer(text)]
        ends = [stop for _, stop in added]
        cuts: list[tuple[int, int]] = []
        for start, end in spans:
            header, marker = bisect_right(ends, start) - 1, bisect_right(ends, end) - 1
            if header < 0 or added[marker][0] < start or text[ends[marker] : end].strip():
                return None
            cuts.append((added[header][0], added[marker][0]))
        return cuts

    def encode_turns(self, text: str, starts: Sequence[int], *, is_template: bool = True) -> tuple[Encoding, list[int]]:
        """Tokenize a text so that everything before each start has the ids it would have alone.

        Args:
            text: the text.
            starts: characters at which a turn to generate starts, ascending.
            is_template: the text comes from a chat template, which writes BOS itself.

        Returns:
            The tokens, and for each start the number of tokens before it.
        """
        first_tokens: list[int] = []
        done, cut = Encoding([], []), 0  # the tokens of text[:cut], which are settled

        def extend(stop: int) -> Encoding:
            tail = self.encode(text[cut:stop], cut, is_template=is_template)
            return Encoding(done.ids + tail.ids, done.starts + tail.starts)

        whole = extend(len(text))
        for start in starts:
            count = self._count_before(start, whole, text)
            if count is None:
                head = whole if start == len(text) else extend(start)
                if whole.ids[: len(head.ids)] != head.ids:
                    done, cut = head, start
                    whole = extend(len(text))
                count = len(head.ids)
            first_tokens.append(count)
        return whole, first_tokens

    def _count_before(self, start: int, whole: Encoding, text: str) -> int | None:
        """Tokens before `start`, if the text after the added token before it tells; None: it does not."""
        last = bisect_right(whole.starts, start) - 1
        while last >= 0 and whole.ids[last] not in self._added_ids:
            last -= 1
        if last < 0:
            return None
        tail = self._encode_tail(text[whole.starts[last] : start])
        return last + len(tail) if tail and whole.ids[last : last + len(tail)] == tail else None


def _compile_added(backend: Any) -> re.Pattern[str] | None:
    """Finds added tokens as the tokenizer does; None where it looks at what stands around them."""
    tokens: list[Any] = list(backend.get_added_tokens_decoder().values())
    if backend.encode_special_tokens or any(t.lstrip or t.rstrip or t.single_word or t.normalized for t in tokens):
        return None
    words = sorted((token.content for token in tokens if token.content), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words))) if words else None
