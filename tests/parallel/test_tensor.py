"""What the ranks of tp share."""

import gc
import weakref
from unittest import mock

import torch

from vlmforge.parallel.tensor import TensorRanks


def test_what_is_shared_once_for_several_matrices_is_freed_after_the_step() -> None:
    ranks = TensorRanks(mock.Mock(), rank=0, size=2)
    hidden = torch.ones(3, requires_grad=True) * 2.0
    shared = ranks.share(hidden)
    assert shared is ranks.share(hidden)
    freed = weakref.ref(hidden), weakref.ref(shared)
    del hidden, shared
    gc.collect()
    assert [reference() for reference in freed] == [None, None]
