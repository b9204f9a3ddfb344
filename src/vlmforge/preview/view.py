"""What is in a step, as people are shown it: the shapes that `reading.py` fills and the writers write."""

# Shapes: S tokens of one sample.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmforge.data.ledger import SourceCounts
from vlmforge.preview.lint import Note
from vlmforge.preview.pieces import Piece


@dataclass(frozen=True)
class ShownImage:
    """A picture as the model gets it.

    Attributes:
        name: where it is.
        width: of the file, in pixels.
        height: of the file, in pixels.
        start: its first token in the sample.
        num_tokens: how many it has.
        grid: frames, rows and columns of its tiles or patches.
        tiles: `[height, width, 3]` uint8 of each tile, made back from the tensor that the tower takes; empty where
            the sample's text is not shown.
        num_shrinks: how often the budget of pictures was made smaller for it because its sample was too long.
        frame: which one of its film it is, counted from 0; None: it is a picture.
    """

    name: str
    width: int
    height: int
    start: int
    num_tokens: int
    grid: tuple[int, int, int]
    tiles: tuple[npt.NDArray[np.uint8], ...]
    num_shrinks: int = 0
    frame: int | None = None

    @property
    def is_tiled(self) -> bool:
        """Whether the tiles are those of the grid, and not whole pictures or frames."""
        frames, rows, columns = self.grid
        return len(self.tiles) > 1 and len(self.tiles) >= frames * rows * columns


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
        images: its pictures.
    """

    sample_id: str
    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    special: npt.NDArray[np.bool_]
    pieces: tuple[Piece, ...]
    notes: tuple[Note, ...]
    images: tuple[ShownImage, ...] = ()

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
    num_images: int


@dataclass(frozen=True)
class StepView:
    """The first step, ready to be written in any form.

    Attributes:
        name: of the recipe.
        settings: what of the recipe shaped the step, as name and value.
        seq_len: tokens that fit into a row.
        rows: all rows; in a long step the later ones without text.
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
    def num_images(self) -> int:
        """Pictures of the step."""
        return sum(batch.num_images for batch in self.micro_batches)

    @property
    def fill_ratio(self) -> float:
        """Tokens of the step by the room in its rows; 0 without rows."""
        return self.num_tokens / (len(self.rows) * self.seq_len) if self.rows else 0.0

    def all_notes(self) -> list[Note]:
        """Notes of the step, then those of its samples."""
        return [*self.notes, *(note for sample in self.samples for note in sample.notes)]
