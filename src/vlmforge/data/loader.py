"""The loader: every step's global batch, and this data rank's part of it.

1. Windows are made in order, here or ahead of time in worker processes (`window.py`, `workers.py`).
2. Their rows are chained, and `stage.global_batch_size` rows at a time are a step.
3. The rows of a step are dealt to data ranks and micro-batches (`deal.py`) and collated. Where there are pictures, that
   makes their pixels, each rank those of its own rows; with workers as many threads do it ahead of time.

Every rank makes every window: it reads and tokenizes the whole global batch. So the rows of a step, the ledger and the
number of label tokens are known everywhere without communication. The place in the data is (window, rows used), which
any number of ranks and workers can go on from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmforge.config.schema import Config
from vlmforge.data.ahead import map_ahead
from vlmforge.data.bad import LeftOut, format_sample_id
from vlmforge.data.collate import Batch, collate, collate_sound
from vlmforge.data.deal import deal
from vlmforge.data.images import ImageRule
from vlmforge.data.ledger import Ledger, LostSample, counts_of
from vlmforge.data.mixture import Lengths
from vlmforge.data.sample import Row
from vlmforge.data.window import Window, WindowMaker, build_train_windows
from vlmforge.data.workers import iterate_windows
from vlmforge.errors import DataError, Problem

__all__ = [
    "StepBatch",
    "TrainLoader",
    "build_train_loader",
    "collate_hand",
    "num_steps",
]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class StepBatch:
    """One optimizer step's data.

    Attributes:
        micro_batches: this data rank's micro-batches, as many as every other rank has.
        sample_ids: `source#index` of the whole global batch, sorted.
        ledger: what this step adds to the run's ledger.
        lost: samples of this rank whose pictures could not be decoded, which are left out; None where that cannot be.
        state: where the next step starts; for a checkpoint made after this step.
    """

    micro_batches: list[Batch]
    sample_ids: tuple[str, ...]
    ledger: Ledger
    state: dict[str, Any]
    lost: tuple[LostSample, ...] | None = None


class TrainLoader:
    """Yields steps until the data ends, which it does with `stage.max_epochs` only.

    Attributes:
        windows: which its steps are made of.
        samples_per_epoch: sample numbers in an epoch.
    """

    def __init__(
        self,
        windows: WindowMaker,
        config: Config,
        data_rank: int,
        num_data_ranks: int,
        grad_accum_steps: int | None,
        state: Mapping[str, Any] | None,
        image_rule: ImageRule | None,
    ) -> None:
        """Use `build_train_loader`."""
        self._image_rule = image_rule
        self.samples_per_epoch = windows.samples_per_epoch
        self.windows = windows
        self._rows_per_step = config.stage.global_batch_size
        self._is_packed = config.stage.packing != "none"
        self._num_workers = config.data.num_workers
        self._data_rank = data_rank
        self._num_data_ranks = num_data_ranks
        self._grad_accum_steps = grad_accum_steps
        self._max_tokens = config.stage.max_tokens_per_micro_batch
        self._is_skipping = config.data.on_bad_sample == "skip"
        self._state: dict[str, Any] = {"window": 0, "rows_used": 0} | dict(state or {})
        windows.go_on_from(self._state.get("streams", {}))

    def __iter__(self) -> Iterator[StepBatch]:
        """Steps from the state that was given on."""
        num_threads = self._num_workers if self._image_rule is not None else 0
        return map_ahead(lambda step: self._build_step(*step), self.iterate_rows(), num_threads)

    def iterate_rows(self) -> Iterator[tuple[list[Row], Ledger, dict[str, Any]]]:
        """The rows of each step before they are dealt, what they add to the ledger by holes, the state after them."""
        return self._chain_packed() if self._is_packed else self._one_window_a_step()

    def _make_windows(self, first: int) -> Iterator[Window]:
        """Windows in order; a whole epoch of holes ends the training, which would go on for ever without a row."""
        num_holes = 0
        for window in iterate_windows(self.windows, first, self._num_workers):
            num_holes = 0 if window.rows else num_holes + len(window.holes)
            if num_holes >= self.samples_per_epoch:
                raise _nothing_left(window)
            yield window

    def _one_window_a_step(self) -> Iterator[tuple[list[Row], Ledger, dict[str, Any]]]:
        """Unpacked: a window is a step, with its holes."""
        first = self._state["window"]
        for number, window in enumerate(self._make_windows(first), first):
            ledger = Ledger()
            window.count_holes(ledger)
            yield list(window.rows), ledger, _place(number, window, len(window.rows))

    def _chain_packed(self) -> Iterator[tuple[list[Row], Ledger, dict[str, Any]]]:
        """Packed: rows run on over windows; only the very last step may be short.

        A window's holes are counted with the step that reaches its first row, those behind the last row with the last
        step. Which that is shows only when no row follows, so a full step waits for the next row.
        """
        first, rows_used = self._state["window"], self._state["rows_used"]
        rows: list[Row] = []
        uncounted: list[Window] = []
        ledger, place = Ledger(), self._state
        try:
            for number, window in enumerate(self._make_windows(first), first):
                uncounted += [window] if rows_used == 0 else []
                for used, row in enumerate(window.rows[rows_used:], rows_used + 1):
                    if len(rows) == self._rows_per_step:
                        yield rows, ledger, place
                        rows, ledger = [], Ledger()
                    _count_holes(uncounted, ledger)
                    rows.append(row)
                    place = _place(number, window, used)
                rows_used = 0
        except DataError:
            if len(rows) == self._rows_per_step:
                yield rows, ledger, place
            raise
        if rows:
            _count_holes(uncounted, ledger)
            yield rows, ledger, place

    def _build_step(self, rows: list[Row], ledger: Ledger, state: dict[str, Any]) -> StepBatch:
        """Deal and collate the rows of a step."""
        samples = [sample for row in rows for sample in row]
        for sample in samples:
            ledger.count_sample(sample)
        collated = [self._collate(hand) for hand in self._deal(rows)]
        lost = [sample for _, hand in collated for sample in hand]
        return StepBatch(
            micro_batches=[batch for batch, _ in collated],
            sample_ids=tuple(sorted(sample.sample_id for sample in samples)),
            ledger=ledger,
            state=state,
            lost=tuple(lost) if self._image_rule is not None and self._is_skipping else None,
        )

    def _collate(self, hand: list[Row]) -> tuple[Batch, tuple[LostSample, ...]]:
        """A micro-batch, and the samples that had to be left out of it."""
        return collate_hand(hand, self._image_rule, is_skipping=self._is_skipping)

    def _deal(self, rows: list[Row]) -> list[list[Row]]:
        """The rows of each of this rank's micro-batches."""
        return deal(rows, self._data_rank, self._num_data_ranks, self._grad_accum_steps, self._max_tokens)


def _count_holes(windows: list[Window], ledger: Ledger) -> None:
    """Enter the holes of windows in a ledger, once."""
    while windows:
        windows.pop(0).count_holes(ledger)


def _place(number: int, window: Window, rows_used: int) -> dict[str, Any]:
    """Where the rows after the first `rows_used` of a window are."""
    is_finished = rows_used == len(window.rows)
    streams = window.streams_after if is_finished else window.streams_before
    place: dict[str, Any] = {"window": number + is_finished, "rows_used": 0 if is_finished else rows_used}
    return place | ({"streams": streams} if streams else {})


def collate_hand(
    hand: Sequence[Row], image_rule: ImageRule | None, *, is_skipping: bool
) -> tuple[Batch, tuple[LostSample, ...]]:
    """A micro-batch, and the samples that had to be left out of it.

    Raises:
        DataError: a picture cannot be decoded, and the recipe says `error`. Only ranks that have it know.
    """
    if is_skipping:
        batch, lost = collate_sound(hand, image_rule)
        return batch, tuple(
            LostSample(LeftOut.because_of(error, sample.source, sample.index), counts_of(sample))
            for sample, error in lost
        )
    try:
        return collate(hand, image_rule), ()
    except DataError as error:
        error.is_on_every_rank = False
        raise


def build_train_loader(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    data_rank: int,
    num_data_ranks: int,
    grad_accum_steps: int | None,
    state: Mapping[str, Any] | None = None,
    lengths: Lengths | None = None,
    image_rule: ImageRule | None = None,
) -> TrainLoader:
    """Open the training data.

    Args:
        config: the recipe.
        tokenizer: a fast tokenizer.
        data_rank: which part of each global batch this rank trains on.
        num_data_ranks: how many parts there are; ranks that share one model share a part.
        grad_accum_steps: micro-batches of a step on each rank; None: cut by `stage.max_tokens_per_micro_batch`.
        state: from `StepBatch.state`, to go on from; None: from the start.
        lengths: what weights in tokens rest on; None: measured here if they are needed.
        image_rule: how the model sees pictures; None: it takes text only.

    Raises:
        DataError: a source cannot be opened, or the chat template ends no turn.
    """
    windows = build_train_windows(config, tokenizer, lengths, image_rule)
    return TrainLoader(windows, config, data_rank, num_data_ranks, grad_accum_steps, state, image_rule)


def num_steps(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Lengths | None = None,
    image_rule: ImageRule | None = None,
) -> int:
    """Optimizer steps of the whole training: the smaller of `max_steps` and what `max_epochs` comes to.

    With packing and `max_epochs` all samples are rendered once, because only that tells how many rows they
    fill.

    Args:
        config: the recipe.
        tokenizer: a fast tokenizer.
        lengths: what weights in tokens rest on; None: measured here if they are needed.
        image_rule: how the model sees pictures; None: it takes text only.

    Raises:
        DataError: a sample is bad, or every sample is left out.
    """
    max_steps = config.stage.max_steps
    windows = build_train_windows(config, tokenizer, lengths, image_rule)
    windows.try_first()
    if windows.num_samples is None:
        assert max_steps is not None, "a stage without an end passed gate 1"
        return max_steps
    if config.stage.packing == "none":
        steps = math.ceil(windows.num_samples / config.stage.global_batch_size)
    else:
        steps = _count_packed_steps(windows, config.stage.global_batch_size, max_steps)
    if steps == 0:
        raise _nothing_left(windows.make(0))
    return steps if max_steps is None else min(steps, max_steps)


def _nothing_left(window: Window) -> DataError:
    """What is wrong with all samples is, most likely, what is wrong with one of them."""
    what, where = "no sample of data.train is left to train on: every one is left out", "data.train"
    if window.holes:
        hole = min(window.holes, key=lambda hole: (hole.source, hole.index))
        what, where = f"{what}; of {format_sample_id(hole.source, hole.index)}, {hole.reason}", hole.where
    fix = (
        "stage.seq_len=<more>, or mend the data; data.on_too_long=error and data.on_bad_sample=error stop at the first"
    )
    return DataError(Problem(what, where, fix))


def _count_packed_steps(windows: WindowMaker, rows_per_step: int, max_steps: int | None) -> int:
    """Steps that the packed rows of all windows fill; stops counting once `max_steps` are full."""
    num_rows = 0
    for window in windows.make_all():
        num_rows += len(window.rows)
        if max_steps is not None and num_rows >= max_steps * rows_per_step:
            break
    return math.ceil(num_rows / rows_per_step)
