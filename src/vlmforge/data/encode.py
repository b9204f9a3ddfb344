"""Text to tokens, such that what stands before a turn has the ids it would have alone.

The ids that generation starts from are a prefix of the ids trained on. A text is tokenized as a whole where that leaves
them untouched, and cut where a turn starts otherwise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoding:
    """Tokens with the place of each in the text."""

    ids: list[int]
    starts: list[int]


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
        """Tokens before `start`, if the text after the added token before it tells; None: it does not.

        A tokenizer cuts a text at added tokens before all else, so the ids from one of them on are the same whatever
        stands before it.
        """
        last = bisect_right(whole.starts, start) - 1
        while last >= 0 and whole.ids[last] not in self._added_ids:
            last -= 1
        if last < 0:
            return None
        tail = self._encode_tail(text[whole.starts[last] : start])
        return last + len(tail) if tail and whole.ids[last : last + len(tail)] == tail else None
