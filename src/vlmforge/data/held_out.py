"""Held-out data: `data.validation` once through as micro-batches, and its first samples as tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlmforge.config.schema import Config
from vlmforge.data.collate import Batch
from vlmforge.data.deal import deal_by_tokens, deal_rows
from vlmforge.data.images import ImageRule
from vlmforge.data.ledger import Ledger, LostSample
from vlmforge.data.loader import collate_hand
from vlmforge.data.mixture import open_blend
from vlmforge.data.sample import Row, Sample
from vlmforge.data.sources import Source
from vlmforge.data.window import Window, build_validation_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ValidationLoader:
    """Yields this rank's micro-batches of `data.validation`, once through; every rank gets equally many.

    Attributes:
        ledger: what became of the samples so far, the same on every rank; `lost` ones are counted as used.
        lost: samples of this rank whose pictures could not be decoded, which are left out.
        num_samples: of all ranks, those that are left out counted too.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: PreTrainedTokenizerBase,
        data_rank: int,
        num_data_ranks: int,
        image_rule: ImageRule | None = None,
    ) -> None:
        """Open the data.

        Args:
            config: the recipe.
            tokenizer: a fast tokenizer.
            data_rank: which part of the samples this rank gets.
            num_data_ranks: how many parts there are.
            image_rule: how the model sees pictures; None: it takes text only.

        Raises:
            DataError: as in training.
        """
        self.ledger = Ledger()
        self.lost: list[LostSample] = []
        self._windows = build_validation_windows(config, tokenizer, image_rule)
        self.num_samples = self._windows.samples_per_epoch
        self._ranks = data_rank, num_data_ranks
        self._image_rule = image_rule
        self._max_tokens = config.stage.max_tokens_per_micro_batch
        self._rows_at_once = config.stage.micro_batch_size * num_data_ranks
        self._is_skipping = config.data.on_bad_sample == "skip"

    def __iter__(self) -> Iterator[Batch]:
        """The micro-batches; to be gone through once.

        Raises:
            DataError: as in training.
        """
        for hand in self._hands_by_rows() if self._max_tokens is None else self._hands_by_tokens(self._max_tokens):
            batch, lost = collate_hand(hand, self._image_rule, is_skipping=self._is_skipping)
            self.lost.extend(lost)
            yield batch

    def _hands_by_tokens(self, max_tokens: int) -> Iterator[list[Row]]:
        """The rows of each micro-batch, cut by tokens."""
        for window in self._counted_windows():
            yield from deal_by_tokens(window.rows, *self._ranks, max_tokens)

    def _hands_by_rows(self) -> Iterator[list[Row]]:
        """The rows of each micro-batch, cut by rows."""
        rows: list[Row] = []
        for window in self._counted_windows():
            rows.extend(window.rows)
            while len(rows) >= self._rows_at_once:
                yield deal_rows(rows[: self._rows_at_once], *self._ranks, 1)[0]
                del rows[: self._rows_at_once]
        if rows:
            yield deal_rows(rows, *self._ranks, 1)[0]

    def _counted_windows(self) -> Iterator[Window]:
        """All windows, entered in the ledger."""
        for window in self._windows.make_all():
            window.count_holes(self.ledger)
            for row in window.rows:
                for sample in row:
                    self.ledger.count_sample(sample)
            yield window


def validation_samples(config: Config, limit: int | None) -> list[Sample]:
    """The first samples of `data.validation` in file order, for tasks; `Sample.as_task` splits them.

    Args:
        config: the recipe.
        limit: at most this many; None: all.

    Raises:
        DataError: a row cannot be read.
    """
    samples: list[Sample] = []
    for source in open_blend(config.data, "validation").sources:
        assert isinstance(source, Source), "a validation source that cannot seek passed gate 1"
        wanted = len(source) if limit is None else min(len(source), limit - len(samples))
        samples.extend(source.sample(i) for i in range(wanted))
    return samples
