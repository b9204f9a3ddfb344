"""From rows to the tensors of one micro-batch.

All samples of all rows are laid end to end, without padding; `cu_seq_lens` and restarting positions keep them
apart. The shift by one between inputs and labels happens here, and nowhere else.
"""

# Shapes: T tokens of the micro-batch, n samples.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vlmforge.config.schema import IGNORE_INDEX
from vlmforge.data.sample import RenderedSample, Row


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one data rank.

    Attributes:
        input_ids: `[1, T]` int64.
        position_ids: `[1, T]` int64, from 0 in every sample.
        labels: `[1, T]` int64; at t the token at t + 1 of the same sample if that one is trained, else
            IGNORE_INDEX.
        cu_seq_lens: `[n + 1]` int32, where each sample starts, and T.
        num_tokens: T, or 0 for the stand-in of an empty micro-batch.
        num_label_tokens: labels that are not IGNORE_INDEX.
        max_seq_len: tokens of the longest sample.
        sample_ids: `source#index` of each sample, in order.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    cu_seq_lens: torch.Tensor
    num_tokens: int
    num_label_tokens: int
    max_seq_len: int
    sample_ids: tuple[str, ...]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            cu_seq_lens=self.cu_seq_lens.to(device, non_blocking=True),
        )


def shift_labels(sample: RenderedSample) -> np.ndarray:
    """Labels `[S]` int64 of one sample: each token's label is the next token, if that is trained."""
    labels = np.full(sample.num_tokens, IGNORE_INDEX, np.int64)
    labels[:-1] = np.where(sample.is_label[1:], sample.input_ids[1:], IGNORE_INDEX)
    return labels


def collate(rows: Sequence[Row]) -> Batch:
    """Lay the samples of some rows end to end.

    Rows without any sample give a stand-in of one token without a label, so that a rank with nothing left to
    do runs the same forward, backward and collectives as the others, and adds zero.
    """
    samples = [sample for row in rows for sample in row]
    if not samples:
        return _collate_nothing()
    lengths = [sample.num_tokens for sample in samples]
    return Batch(
        input_ids=_row_tensor(np.concatenate([sample.input_ids for sample in samples])),
        position_ids=_row_tensor(np.concatenate([np.arange(length) for length in lengths])),
        labels=_row_tensor(np.concatenate([shift_labels(sample) for sample in samples])),
        cu_seq_lens=torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32),
        num_tokens=sum(lengths),
        num_label_tokens=sum(sample.num_label_tokens for sample in samples),
        max_seq_len=max(lengths),
        sample_ids=tuple(sample.sample_id for sample in samples),
    )


def _row_tensor(values: np.ndarray) -> torch.Tensor:
    """`[T]` to `[1, T]` int64."""
    return torch.from_numpy(values.astype(np.int64)).unsqueeze(0)


def _collate_nothing() -> Batch:
    """The stand-in: token 0 at position 0, no label."""
    zero = torch.zeros(1, 1, dtype=torch.int64)
    return Batch(
        input_ids=zero,
        position_ids=zero.clone(),
        labels=torch.full_like(zero, IGNORE_INDEX),
        cu_seq_lens=torch.tensor([0, 1], dtype=torch.int32),
        num_tokens=0,
        num_label_tokens=0,
        max_seq_len=1,
        sample_ids=(),
    )
