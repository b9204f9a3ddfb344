"""What is worth a second look in a step: the faults that users of trainers find last, because nothing shows them.

Every check reads the tokens and labels that the model gets, not the files they came from.
"""

# Shapes: S tokens of one sample.

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vlmforge.data.bad import format_sample_id
from vlmforge.data.film import Frame
from vlmforge.data.ledger import Ledger
from vlmforge.data.media import Media
from vlmforge.data.sample import RenderedSample
from vlmforge.data.template import find_end_marker, marker_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Spellings of special tokens; as ordinary text they mean that the tokenizer does not know them.
_MARKUP = re.compile(r"<\|[A-Za-z0-9_]+\|>|</?s>|<(?:image|video|bos|eos|pad|start_of_turn|end_of_turn)>")
_BROKEN = "\ufffd"
_MOST_TWINS = 3
_MOST_NAMES = 5


@dataclass(frozen=True)
class Note:
    """One thing to look at.

    Attributes:
        text: what it is and what it means.
        sample_id: `source#index`; empty where it is about the step.
    """

    text: str
    sample_id: str = ""

    def __str__(self) -> str:
        """As a line of its own."""
        return f"{self.sample_id}: {self.text}" if self.sample_id else self.text


class Linter:
    """The checks of single samples, for one tokenizer and one choice of labels."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, labels: str, placeholder_id: int | None = None) -> None:
        """Look up the tokens that the checks are about.

        Args:
            tokenizer: of the model.
            labels: `stage.labels`.
            placeholder_id: token that stands for a part of a picture; None: the model takes text only.
        """
        self._placeholder_id = placeholder_id
        self._tokenizer = tokenizer
        self._trains_turns = labels == "assistant"
        marker = find_end_marker(tokenizer)
        self._end_id = None if marker is None else tokenizer.get_vocab()[marker]
        self._endings = marker_ids(tokenizer)

    def check(
        self,
        sample_id: str,
        ids: npt.NDArray[np.int64],
        is_trained: npt.NDArray[np.bool_],
        images: Sequence[tuple[int, int]] = (),
        was_truncated: bool = False,
    ) -> tuple[Note, ...]:
        """Notes about one sample.

        Args:
            sample_id: `source#index`.
            ids: `[S]` tokens.
            is_trained: `[S]`, True where the token itself is predicted.
            images: [start, stop) of the tokens of each picture.
            was_truncated: whether its end was cut.
        """
        texts = [
            *self._check_labels(ids, is_trained),
            *self._check_tokens(ids),
            *self._check_images(ids, is_trained, images),
        ]
        if was_truncated:
            texts.append("its end was cut off to fit stage.seq_len")
        return tuple(Note(text, sample_id) for text in texts)

    def _check_labels(self, ids: npt.NDArray[np.int64], is_trained: npt.NDArray[np.bool_]) -> Iterator[str]:
        """Whether something is trained, and each trained run teaches to stop."""
        runs = [ids[start:stop].tolist() for start, stop in find_runs(is_trained)]
        if not runs:
            yield "nothing of it is trained"
            return
        if not self._trains_turns:
            runs = runs[-1:]
        if not all(self._ends(run) for run in runs):
            yield "its end marker is not trained, so it does not teach to stop"
        if self._trains_turns and any(run.count(self._end_id) > 1 for run in runs):
            yield "an end marker stands inside an answer, or twice at its end: the data may spell it out"
        if self._trains_turns and any(not self._strip(run) for run in runs):
            yield "an answer without content is trained: it teaches to stop at once"

    def _check_tokens(self, ids: npt.NDArray[np.int64]) -> Iterator[str]:
        """Beginnings that come twice, and text that is not what it was."""
        tokenizer = self._tokenizer
        bos, unk = tokenizer.bos_token_id, tokenizer.unk_token_id
        if bos is not None and ids[:2].tolist() == [bos, bos]:
            yield f"it begins with {tokenizer.bos_token} twice: the template and the tokenizer both write it"
        num_unknown = 0 if unk is None or unk in (tokenizer.eos_token_id, bos) else int((ids == unk).sum())
        if num_unknown:
            yield f"{num_unknown} of its tokens are {tokenizer.unk_token}: the tokenizer has no token for that text"
        ordinary = str(tokenizer.decode([token for token in ids.tolist() if token not in self._endings]))
        markup = sorted(set(_MARKUP.findall(ordinary)))
        if markup:
            yield f"{', '.join(markup)} stands there as ordinary text, not as the special token it looks like"
        if _BROKEN in ordinary:
            yield "it holds U+FFFD, which files read in the wrong encoding are full of"

    def _check_images(
        self, ids: npt.NDArray[np.int64], is_trained: npt.NDArray[np.bool_], images: Sequence[tuple[int, int]]
    ) -> Iterator[str]:
        """Whether every picture is whole, and none is trained."""
        is_image = np.zeros(len(ids), bool)
        for number, (start, stop) in enumerate(images, 1):
            is_image[start:stop] = True
            if stop > len(ids):
                yield f"image {number} is cut: {max(0, len(ids) - start)} of its {stop - start} tokens are there"
        num_strange = int(((ids == self._placeholder_id) & ~is_image).sum()) if self._placeholder_id is not None else 0
        if num_strange:
            yield f"{num_strange} image tokens belong to no image: an image is cut, or the text spells them out"
        if (is_image & is_trained).any():
            yield "tokens of an image are trained"

    def _ends(self, run: list[int]) -> bool:
        """Whether a trained run ends with an end marker, or with one and a line end."""
        last = next((token for token in reversed(run) if not self._is_blank(token)), None)
        return last in self._endings

    def _strip(self, run: list[int]) -> list[int]:
        """What a trained run has beside end markers and spaces."""
        return [token for token in run if token not in self._endings and not self._is_blank(token)]

    def _is_blank(self, token: int) -> bool:
        return token not in self._endings and not str(self._tokenizer.decode([token])).strip()


def find_runs(is_trained: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, stop) of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_trained.astype(np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def find_step_notes(
    ledger: Ledger, samples: Sequence[RenderedSample], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Note]:
    """Notes about the step as a whole.

    Args:
        ledger: of the step.
        samples: all of it.
        tokenizer: theirs.
    """
    for name, counts in sorted(ledger.sources.items()):
        told = {
            "left out as too long": counts.dropped,
            "left out as bad": counts.bad,
            "cut at their end": counts.truncated,
        }
        yield from (Note(f"{name}: {what} in this step: {count}") for what, count in told.items() if count)
    left_out = ledger.left_out
    for sample in left_out[:_MOST_NAMES]:
        yield Note(f"left out as {sample.kind}: {sample.reason}", format_sample_id(sample.source, sample.index))
    if len(left_out) > _MOST_NAMES:
        yield Note(f"{len(left_out) - _MOST_NAMES} more samples are left out; training writes down why each one is")
    yield from _find_twins(samples)
    if "strftime_now" in str(tokenizer.chat_template):
        yield Note("the chat template may write today's date (strftime_now): tomorrow the same data is other tokens")


def _find_twins(samples: Sequence[RenderedSample]) -> Iterator[Note]:
    """Samples with the same tokens and pictures under several ids: rows that the data has several times."""
    by_tokens: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for sample in samples:
        names = by_tokens[sample.input_ids.tobytes(), *(_identify(span.media) for span in sample.images)]
        if sample.sample_id not in names:
            names.append(sample.sample_id)
    twins = [names for names in by_tokens.values() if len(names) > 1]
    for names in twins[:_MOST_TWINS]:
        more = ", ..." if len(names) > _MOST_NAMES else ""
        yield Note(f"{len(names)} samples of this step are the same: {', '.join(names[:_MOST_NAMES])}{more}")
    if len(twins) > _MOST_TWINS:
        yield Note(f"{len(twins) - _MOST_TWINS} more groups of samples are the same")


def _identify(media: Media | Frame) -> tuple[Any, ...]:
    """What two pictures have in common if they are one: the file or the bytes, and of a film which frame."""
    if isinstance(media, Media):
        return media.path, media.data
    film = media.film
    return (media.number, *_identify(film.file)) if film.file is not None else _identify(film.pictures[media.number])
