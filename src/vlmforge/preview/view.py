"""What is in a step, read back from the rows and batches that the training loader makes; no writing here.

Every row is collated alone by the collator that trains, so that its borders can be told apart; the micro-batches that
the recipe would cut the step into are counted as well.
"""

# Shapes: S tokens of one sample.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vlmforge.config.derived import BatchSizes
from vlmforge.config.schema import Config
from vlmforge.data.collate import Batch, collate
from vlmforge.data.deal import deal
from vlmforge.data.ledger import SourceCounts
from vlmforge.data.loader import build_train_loader
from vlmforge.data.sample import RenderedSample, Row
from vlmforge.data.template import marker_ids
from vlmforge.preview.lint import Linter, Note, find_step_notes
from vlmforge.preview.pieces import Piece, split_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Text is made for so many tokens only: a page of more is too heavy to open. Counts and notes are of the whole step.
MAX_TOKENS = 60_000


@dataclass(frozen=True)
class ShownSample:
    """One sample as the model gets it.

    Attributes:
        sample_id: `source#index`.
        ids: `[S]` tokens.
        positions: `[S]` position ids, or `[S, k]` where a token has several.
        weights: `[S]` what the loss of predicting each token counts in the step's loss; 0 where it is not trained.
        pieces: text of the tokens; empty where the step is too long to show all of it.
        special: `[S]` bool, True at special and added tokens.
        notes: what is worth a second look.
    """

    sample_id: str
    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    special: npt.NDArray[np.bool_]
    pieces: tuple[Piece, ...]
    notes: tuple[Note, ...]

    @property
    def num_tokens(self) -> int:
        """S."""
        return len(self.ids)

    @property
    def num_label_tokens(self) -> int:
        """Tokens that enter the loss."""
        return int((self.weights != 0).sum())


@dataclass(frozen=True)
class ShownRow:
    """A row of the step, and where it is trained.

    Attributes:
        number: from 1, in the order of the data.
        rank: data rank that trains it.
        micro_batch: which of the rank's micro-batches it is in, from 1.
        samples: in their order.
    """

    number: int
    rank: int
    micro_batch: int
    samples: tuple[ShownSample, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all samples."""
        return sum(sample.num_tokens for sample in self.samples)

    @property
    def num_label_tokens(self) -> int:
        """Tokens of all samples that enter the loss."""
        return sum(sample.num_label_tokens for sample in self.samples)


@dataclass(frozen=True)
class MicroBatch:
    """Counts of one forward pass of one data rank."""

    rank: int
    number: int
    num_rows: int
    num_samples: int
    num_tokens: int
    num_label_tokens: int


@dataclass(frozen=True)
class StepView:
    """The first step, ready to be written in any form.

    Attributes:
        name: of the recipe.
        settings: what of the recipe shaped the step, as name and value.
        seq_len: tokens that fit into a row.
        rows: all rows, those beyond `MAX_TOKENS` without text.
        micro_batches: of every data rank.
        sources: counts by source, holes included.
        notes: what is worth a second look in the step as a whole; the samples have their own.
        vocabulary: the spelling of each token that is shown, by id.
    """

    name: str
    settings: tuple[tuple[str, str], ...]
    seq_len: int
    rows: tuple[ShownRow, ...]
    micro_batches: tuple[MicroBatch, ...]
    sources: dict[str, SourceCounts]
    notes: tuple[Note, ...]
    vocabulary: dict[int, str]

    @property
    def samples(self) -> tuple[ShownSample, ...]:
        """The samples of all rows."""
        return tuple(sample for row in self.rows for sample in row.samples)

    @property
    def num_tokens(self) -> int:
        """Tokens of the step."""
        return sum(row.num_tokens for row in self.rows)

    @property
    def num_label_tokens(self) -> int:
        """Tokens that the step's loss is the mean of."""
        return sum(row.num_label_tokens for row in self.rows)

    @property
    def fill_ratio(self) -> float:
        """Tokens of the step by the room in its rows; 0 without rows."""
        return self.num_tokens / (len(self.rows) * self.seq_len) if self.rows else 0.0

    def all_notes(self) -> list[Note]:
        """Notes of the step, then those of its samples."""
        return [*self.notes, *(note for sample in self.samples for note in sample.notes)]


def build_view(config: Config, batch: BatchSizes, name: str, tokenizer: PreTrainedTokenizerBase) -> StepView:
    """Load the first step of a recipe and read it back.

    Args:
        config: the recipe.
        batch: how its mesh cuts the step.
        name: of the recipe.
        tokenizer: a fast tokenizer.

    Raises:
        DataError: a sample is bad, or there is none.
    """
    loader = build_train_loader(config, tokenizer, 0, 1, batch.grad_accum_steps)
    rows, ledger, _ = next(loader.iterate_rows())
    for sample in (sample for row in rows for sample in row):
        ledger.count_sample(sample)
    hands = [
        deal(rows, rank, batch.num_data_ranks, batch.grad_accum_steps, config.stage.max_tokens_per_micro_batch)
        for rank in range(batch.num_data_ranks)
    ]
    shown = tuple(_RowReader(config, tokenizer, rows).read(_find_places(hands)))
    samples = [(sample.sample_id, sample.ids) for row in shown for sample in row.samples]
    return StepView(
        name=name,
        settings=tuple(_list_settings(config)),
        seq_len=config.stage.seq_len,
        rows=shown,
        micro_batches=tuple(_count_micro_batches(hands)),
        sources=dict(sorted(ledger.sources.items())),
        notes=tuple(find_step_notes(ledger, samples, tokenizer)),
        vocabulary=_spell_tokens(shown, tokenizer),
    )


def _list_settings(config: Config) -> Iterator[tuple[str, str]]:
    """Keys that shaped the step."""
    stage, model = config.stage, config.model
    yield "stage.seq_len", str(stage.seq_len)
    yield "stage.packing", stage.packing
    yield "stage.labels", stage.labels
    yield "model.tokenizer", model.tokenizer or f"that of {model.pretrained}"
    yield "model.chat_template", model.chat_template or "the tokenizer's own"
    yield "data.on_too_long", config.data.on_too_long


def _find_places(hands: Sequence[Sequence[Sequence[Row]]]) -> dict[int, tuple[int, int]]:
    """Rank and micro-batch of each row, by the row's identity: rows with equal contents are still two."""
    return {
        id(row): (rank, number)
        for rank, hand in enumerate(hands)
        for number, rows in enumerate(hand, 1)
        for row in rows
    }


def _count_micro_batches(hands: Sequence[Sequence[Sequence[Row]]]) -> Iterator[MicroBatch]:
    """What each forward pass of each rank holds."""
    for rank, hand in enumerate(hands):
        for number, rows in enumerate(hand, 1):
            samples = [sample for row in rows for sample in row]
            num_tokens = sum(sample.num_tokens for sample in samples)
            num_label_tokens = sum(sample.num_label_tokens for sample in samples)
            yield MicroBatch(rank, number, len(rows), len(samples), num_tokens, num_label_tokens)


class _RowReader:
    """Reads the rows of a step back from their collated tensors."""

    def __init__(self, config: Config, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> None:
        """Know the whole step, whose label tokens divide its loss."""
        self._tokenizer = tokenizer
        self._rows = rows
        self._linter = Linter(tokenizer, config.stage.labels)
        self._special_ids = np.array(sorted(marker_ids(tokenizer)), np.int64)
        self._weight = 1.0 / max(1, sum(sample.num_label_tokens for row in rows for sample in row))

    def read(self, places: dict[int, tuple[int, int]]) -> Iterator[ShownRow]:
        """All rows; text is made for the first `MAX_TOKENS` tokens, and for one row at least."""
        num_tokens = 0
        for number, row in enumerate(self._rows, 1):
            batch = collate([row])
            with_text = number == 1 or num_tokens + batch.num_tokens <= MAX_TOKENS
            num_tokens += batch.num_tokens
            rank, micro_batch = places[id(row)]
            yield ShownRow(number, rank, micro_batch, tuple(self._read_samples(batch, row, with_text)))

    def _read_samples(self, batch: Batch, row: Row, with_text: bool) -> Iterator[ShownSample]:
        """The samples of a row."""
        ids, labels = batch.input_ids[0].numpy(), batch.labels[0].numpy()
        positions = _positions_by_token(batch)
        borders = batch.cu_seq_lens.tolist()
        for sample, (start, stop) in zip(row, pairwise(borders), strict=True):
            # The label at t is the token at t + 1, so a token is trained if the place before it has a label.
            is_trained = np.concatenate([[False], labels[start : stop - 1] >= 0])
            yield self._show(sample, ids[start:stop], positions[start:stop], is_trained, with_text)

    def _show(
        self,
        sample: RenderedSample,
        ids: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        is_trained: npt.NDArray[np.bool_],
        with_text: bool,
    ) -> ShownSample:
        """One sample, with its text if it is to be seen."""
        return ShownSample(
            sample_id=sample.sample_id,
            ids=ids,
            positions=positions,
            weights=np.where(is_trained, self._weight, 0.0),
            special=np.isin(ids, self._special_ids),
            pieces=tuple(split_pieces(ids.tolist(), self._tokenizer)) if with_text else (),
            notes=self._linter.check(sample.sample_id, ids, is_trained, sample.was_truncated),
        )


def _positions_by_token(batch: Batch) -> npt.NDArray[np.int64]:
    """Positions `[T]`, or `[T, k]` where each token has one for every axis of an image."""
    by_token = np.moveaxis(batch.position_ids.numpy(), -1, 0).reshape(batch.input_ids.shape[-1], -1)
    return by_token[:, 0] if by_token.shape[1] == 1 else by_token


def _spell_tokens(rows: Sequence[ShownRow], tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The vocabulary's spelling of every token whose text is shown."""
    shown = [sample.ids for row in rows for sample in row.samples if sample.pieces]
    ids = np.unique(np.concatenate(shown)).tolist() if shown else []
    return dict(zip(ids, map(str, tokenizer.convert_ids_to_tokens(ids)), strict=True))
