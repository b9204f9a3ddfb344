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
from vlmforge.data.bad import BadSampleError
from vlmforge.data.images import ImageRule, ImageTensors, make_image_tensors
from vlmforge.data.sample import RenderedSample, Row


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one data rank.

    Attributes:
        input_ids: `[1, T]` int64.
        position_ids: `[1, T]` int64, from 0 in every sample; `[4, 1, T]` where rotary positions have three parts, the
            plain ones first.
        labels: `[1, T]` int64; at t the token at t + 1 of the same sample if that one is trained, else
            IGNORE_INDEX.
        cu_seq_lens: `[n + 1]` int32, where each sample starts, and T.
        num_tokens: T, or 0 for the stand-in of an empty micro-batch.
        num_label_tokens: labels that are not IGNORE_INDEX.
        max_seq_len: tokens of the longest sample.
        sample_ids: `source#index` of each sample, in order.
        images: the pixels of its pictures in the order of their tokens; None where there are none.
        loss_weights: `[1, T]` float32, what the loss of each label counts; None: each counts one.
        total_weight: what the labels' weights sum to: their number, or the samples that have any.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    cu_seq_lens: torch.Tensor
    num_tokens: int
    num_label_tokens: int
    max_seq_len: int
    sample_ids: tuple[str, ...]
    images: ImageTensors | None = None
    loss_weights: torch.Tensor | None = None
    total_weight: int = 0

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            cu_seq_lens=self.cu_seq_lens.to(device, non_blocking=True),
            images=None if self.images is None else self.images.to(device),
            loss_weights=None if self.loss_weights is None else self.loss_weights.to(device, non_blocking=True),
        )


def shift_labels(sample: RenderedSample) -> np.ndarray:
    """Labels `[S]` int64 of one sample: each token's label is the next token, if that is trained."""
    labels = np.full(sample.num_tokens, IGNORE_INDEX, np.int64)
    labels[:-1] = np.where(sample.is_label[1:], sample.input_ids[1:], IGNORE_INDEX)
    return labels


def collate(rows: Sequence[Row], image_rule: ImageRule | None = None) -> Batch:
    """Lay the samples of some rows end to end, and make the pixels of their pictures.

    Rows without any sample give a stand-in of one token without a label, so that a rank with nothing left to
    do runs the same forward, backward and collectives as the others, and adds zero.

    Args:
        rows: of the micro-batch.
        image_rule: how the model sees pictures; None: it takes text only.

    Raises:
        DataError: a picture cannot be decoded.
    """
    samples = [sample for row in rows for sample in row]
    if not samples:
        return _collate_nothing(image_rule)
    lengths = [sample.num_tokens for sample in samples]
    return Batch(
        input_ids=_row_tensor(np.concatenate([sample.input_ids for sample in samples])),
        position_ids=_position_tensor(samples, image_rule),
        labels=_row_tensor(np.concatenate([shift_labels(sample) for sample in samples])),
        cu_seq_lens=torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32),
        num_tokens=sum(lengths),
        num_label_tokens=sum(sample.num_label_tokens for sample in samples),
        max_seq_len=max(lengths),
        sample_ids=tuple(sample.sample_id for sample in samples),
        images=None if image_rule is None else make_image_tensors(samples, image_rule),
        loss_weights=_weight_tensor(samples) if any(sample.weighs_turns for sample in samples) else None,
        total_weight=sum(sample.total_weight for sample in samples),
    )


def collate_sound(
    rows: Sequence[Row], image_rule: ImageRule | None
) -> tuple[Batch, tuple[tuple[RenderedSample, BadSampleError], ...]]:
    """The same without the samples that have a picture which cannot be decoded, and those samples.

    What a picture's header promises is known before; that its pixels are not there shows only here. The others stay
    where they are.
    """
    try:
        return collate(rows, image_rule), ()
    except BadSampleError:
        found = [(sample, _find_fault(sample)) for row in rows for sample in row]
        lost = tuple((sample, error) for sample, error in found if error is not None)
        gone = {id(sample) for sample, _ in lost}
        return collate([tuple(sample for sample in row if id(sample) not in gone) for row in rows], image_rule), lost


def _find_fault(sample: RenderedSample) -> BadSampleError | None:
    """Why one of its pictures cannot be decoded; None if all can."""
    try:
        for span in sample.images:
            span.media.decode()
    except BadSampleError as error:
        return error
    return None


def _row_tensor(values: np.ndarray) -> torch.Tensor:
    """`[T]` to `[1, T]` int64."""
    return torch.from_numpy(values.astype(np.int64)).unsqueeze(0)


def _weight_tensor(samples: Sequence[RenderedSample]) -> torch.Tensor:
    """`[1, T]` float32, each weight where its label is: at the token before."""
    shifted = [np.append(sample.token_weights(), np.float32(0.0)) for sample in samples]
    return torch.from_numpy(np.concatenate(shifted)).unsqueeze(0)


def _position_tensor(samples: Sequence[RenderedSample], image_rule: ImageRule | None) -> torch.Tensor:
    """`[1, T]`, or `[P, 1, T]` where positions have parts."""
    if image_rule is None:
        return _row_tensor(np.concatenate([np.arange(sample.num_tokens) for sample in samples]))
    positions = torch.from_numpy(np.concatenate([image_rule.positions(sample) for sample in samples], axis=1))
    return positions if len(positions) == 1 else positions.unsqueeze(1)


def _collate_nothing(image_rule: ImageRule | None) -> Batch:
    """The stand-in: token 0 at position 0, no label."""
    zero = torch.zeros(1, 1, dtype=torch.int64)
    nothing = RenderedSample(np.zeros(1, np.int32), np.zeros(1, np.bool_), "", 0)
    return Batch(
        input_ids=zero,
        position_ids=_position_tensor([nothing], image_rule),
        labels=torch.full_like(zero, IGNORE_INDEX),
        cu_seq_lens=torch.tensor([0, 1], dtype=torch.int32),
        num_tokens=0,
        num_label_tokens=0,
        max_seq_len=1,
        sample_ids=(),
    )
