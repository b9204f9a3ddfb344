"""Parity's model of a wide recipe: in bounds as it is, and far out of them with a mask that is wrong.

Its weights are smaller than those of a narrow one, so attention is less sharp; what it sees must still count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from vlmforge.commands.configuring import load_config
from vlmforge.commands.parity import make_reduced
from vlmforge.commands.request import Request
from vlmforge.config.derived import Axes
from vlmforge.config.schema import Config
from vlmforge.models import attention
from vlmforge.parallel.mesh import open_world
from vlmforge.train.parity import Bounds, Record, compare
from vlmforge.train.plain_loop import record_plain
from vlmforge.train.recording import record_mesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ATTEND: Any = attention._attend_fused


def without_borders(query: Tensor, key: Tensor, value: Tensor, borders: Tensor, longest: int, *rest: Any) -> Tensor:
    """Samples of a row see those before them."""
    whole = query.shape[2]
    return ATTEND(query, key, value, torch.tensor([0, whole], dtype=borders.dtype), whole, *rest)


def with_a_window(*heads_and_borders: Any) -> Tensor:
    """Every token sees the last 128 only, in samples of some hundred."""
    *rest, _ = heads_and_borders
    return ATTEND(*rest, 128)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Record]:
    """The reduced recipe, and what a plain loop makes of it."""
    arguments = {"recipe": ["nvlm/sft_qwen2_72b_internvit_6b"], "check_data": ["false"]}
    words = ("parallelism.tp=1", "parallelism.dp_shard=1", "stage.packing=best_fit")
    loaded = load_config(Request("parity", arguments, words), with_data=False, environ={})
    reduced = make_reduced(loaded, tmp_path_factory.mktemp("wide"))
    return reduced, record_plain(reduced)


def record(config: Config) -> Record:
    with open_world(Axes(), "cpu", 60.0) as world:
        return record_mesh(config, world)


def test_one_process_trains_what_a_plain_loop_trains(wide: tuple[Config, Record]) -> None:
    reduced, plain = wide
    assert Bounds().broken_by(compare(record(reduced), plain)) == []


@pytest.mark.parametrize("wrong", [without_borders, with_a_window])
def test_a_wrong_mask_is_noticed(wrong: Callable[..., Tensor], wide: tuple[Config, Record]) -> None:
    reduced, plain = wide
    first = replace(plain, losses=plain.losses[:1], grad_norms=plain.grad_norms[:1])
    with mock.patch.object(attention, "_attend_fused", wrong):
        ours = record(replace(reduced, stage=replace(reduced.stage, max_steps=1)))
    difference, bounds = compare(ours, first), Bounds()
    # Not by little: a mistake that is a hundred times smaller would still be seen.
    assert difference.losses[0] > 100 * bounds.losses
    assert difference.grad_norms[0] > 100 * bounds.grad_norms
    assert difference.worst_grad()[1] > 100 * bounds.grads
