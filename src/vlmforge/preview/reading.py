"""Reads a step back from the rows and batches that the training loader makes.

Every row is collated alone by the collator that trains, so that its borders can be told apart; the micro-batches that
the recipe would cut the step into are counted as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vlmforge.config.derived import BatchSizes
from vlmforge.config.schema import Config
from vlmforge.data.collate import Batch
from vlmforge.data.deal import deal
from vlmforge.data.film import Frame
from vlmforge.data.images import ImageRule
from vlmforge.data.ledger import Ledger
from vlmforge.data.loader import build_train_loader, collate_hand
from vlmforge.data.sample import Row
from vlmforge.data.template import marker_ids
from vlmforge.preview.lint import Linter, find_step_notes
from vlmforge.preview.pieces import split_pieces
from vlmforge.preview.repeats import find_repeats
from vlmforge.preview.view import MicroBatch, ShownImage, ShownRow, ShownSample, StepView

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Text is made for so many tokens only: a page of more is too heavy to open. Counts and notes are of the whole step.
MAX_TOKENS = 60_000


def build_view(
    config: Config,
    batch: BatchSizes,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    image_rule: ImageRule | None = None,
) -> StepView:
    """Load the first step of a recipe and read it back.

    Args:
        config: the recipe.
        batch: how its mesh cuts the step.
        name: of the recipe.
        tokenizer: a fast tokenizer.
        image_rule: how the model sees pictures; None: it takes text only.

    Raises:
        DataError: a sample is bad, or there is none.
    """
    loader = build_train_loader(config, tokenizer, 0, 1, batch.grad_accum_steps, image_rule=image_rule)
    rows, ledger, _ = next(loader.iterate_rows())
    for sample in (sample for row in rows for sample in row):
        ledger.count_sample(sample)
    hands = [
        deal(rows, rank, batch.num_data_ranks, batch.grad_accum_steps, config.stage.max_tokens_per_micro_batch)
        for rank in range(batch.num_data_ranks)
    ]
    reader = _RowReader(config, tokenizer, image_rule, ledger)
    shown = _share_loss(list(reader.read(rows, _find_places(hands))))
    samples = [sample for row in rows for sample in row]
    return StepView(
        name=name,
        settings=tuple(_list_settings(config)),
        seq_len=config.stage.seq_len,
        rows=shown,
        micro_batches=tuple(_count_micro_batches(hands)),
        sources=dict(sorted(ledger.sources.items())),
        notes=(
            *find_step_notes(ledger, samples, tokenizer),
            *find_repeats(rows, loader.windows.count_draws(), _row_unit(config, batch)),
        ),
        vocabulary=_spell_tokens(shown, tokenizer),
    )


def _list_settings(config: Config) -> Iterator[tuple[str, str]]:
    """Keys that shaped the step."""
    stage, model = config.stage, config.model
    yield "stage.seq_len", str(stage.seq_len)
    yield "stage.packing", stage.packing
    yield "stage.labels", stage.labels
    yield "stage.loss.weighting", stage.loss.weighting
    yield "model.tokenizer", model.tokenizer or f"that of {model.pretrained}"
    yield "model.chat_template", model.chat_template or "the tokenizer's own"
    yield "data.on_too_long", config.data.on_too_long


def _row_unit(config: Config, batch: BatchSizes) -> int:
    """What the rows of a step must be a multiple of."""
    return 1 if batch.grad_accum_steps is None else config.stage.micro_batch_size * batch.num_data_ranks


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
            num_images = sum(len(sample.images) for sample in samples)
            yield MicroBatch(rank, number, len(rows), len(samples), num_tokens, num_label_tokens, num_images)


class _RowReader:
    """Reads the rows of a step back from their collated tensors."""

    def __init__(
        self, config: Config, tokenizer: PreTrainedTokenizerBase, image_rule: ImageRule | None, ledger: Ledger
    ) -> None:
        """Prepare; `ledger` is told of samples whose pictures turn out to be undecodable."""
        self._tokenizer = tokenizer
        self._image_rule = image_rule
        self._ledger = ledger
        self._is_skipping = config.data.on_bad_sample == "skip"
        placeholder_id = None if image_rule is None else image_rule.placeholder_id
        self._linter = Linter(tokenizer, config.stage.labels, placeholder_id)
        self._special_ids = np.array(sorted(marker_ids(tokenizer)), np.int64)

    def read(self, rows: Sequence[Row], places: dict[int, tuple[int, int]]) -> Iterator[ShownRow]:
        """All rows; text is made for the first `MAX_TOKENS` tokens, and for one row at least."""
        num_tokens = 0
        for number, row in enumerate(rows, 1):
            batch, lost = collate_hand([row], self._image_rule, is_skipping=self._is_skipping)
            for sample in lost:
                self._ledger.count_lost(sample)
            kept = tuple(sample for sample in row if sample.sample_id in batch.sample_ids)
            with_text = number == 1 or num_tokens + batch.num_tokens <= MAX_TOKENS
            num_tokens += batch.num_tokens
            rank, micro_batch = places[id(row)]
            yield ShownRow(number, rank, micro_batch, tuple(self._read_samples(batch, kept, with_text)))

    def _read_samples(self, batch: Batch, row: Row, with_text: bool) -> Iterator[ShownSample]:
        """The samples of a row."""
        ids, labels = batch.input_ids[0].numpy(), batch.labels[0].numpy()
        positions = _positions_by_token(batch)
        # A row of which nothing is left has a stand-in of one token, which is no sample.
        borders = batch.cu_seq_lens.tolist() if row else []
        pictures = self._read_pictures(batch, row, with_text)
        for sample, (start, stop) in zip(row, pairwise(borders), strict=True):
            # The label at t is the token at t + 1, so a token is trained if the place before it has a label.
            is_trained = np.concatenate([[False], labels[start : stop - 1] >= 0])
            weights = is_trained.astype(np.float64)
            if batch.loss_weights is not None:
                weights[1:] = batch.loss_weights[0, start : stop - 1].numpy()
            images = tuple(next(pictures) for _ in sample.images)
            spans = [(image.start, image.start + image.num_tokens) for image in images]
            text_ids = ids[start:stop]
            yield ShownSample(
                sample_id=sample.sample_id,
                ids=text_ids,
                positions=positions[start:stop],
                weights=weights,
                special=np.isin(text_ids, self._special_ids),
                pieces=tuple(split_pieces(text_ids.tolist(), spans, self._tokenizer)) if with_text else (),
                notes=self._linter.check(sample.sample_id, text_ids, is_trained, spans, sample.was_truncated),
                images=images,
            )

    def _read_pictures(self, batch: Batch, row: Row, with_tiles: bool) -> Iterator[ShownImage]:
        """The pictures of a row, with their tiles if they are to be seen."""
        spans = [span for sample in row for span in sample.images]
        tiles: list[list[npt.NDArray[np.uint8]]] = [[] for _ in spans]
        if with_tiles and self._image_rule is not None and batch.images is not None:
            tiles = self._image_rule.show_tensors(batch.images, [span.grid for span in spans])
        for span, own in zip(spans, tiles, strict=True):
            width, height = span.media.read_size()
            name = span.media.path or span.media.name
            frame = span.media.number if isinstance(span.media, Frame) else None
            num_shrinks = span.num_shrinks - span.least_shrinks
            place = (span.start, span.num_tokens, span.grid)
            yield ShownImage(name, width, height, *place, tuple(own), num_shrinks, frame)


def _share_loss(rows: Sequence[ShownRow]) -> tuple[ShownRow, ...]:
    """The same rows with weights that are shares of the step's loss, a mean by what the collator says labels count."""
    total = sum(float(sample.weights.sum()) for row in rows for sample in row.samples) or 1.0
    return tuple(
        replace(row, samples=tuple(replace(sample, weights=sample.weights / total) for sample in row.samples))
        for row in rows
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
