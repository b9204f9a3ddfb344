"""Two threads that compute a layer's samples side by side train what a plain loop trains, and the same bits again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.numerics.cells import PLAIN, STITCHED
from tests.numerics.precision import BF16, Case, configure
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.tiny import make_adapter, make_base

from vlmforge.config.derived import Axes
from vlmforge.models import FAMILIES, halves
from vlmforge.models.build import build_on_meta
from vlmforge.models.halves import arrange, is_steady
from vlmforge.parallel.mesh import open_world
from vlmforge.train.parity import Bounds, Record, compare
from vlmforge.train.plain_loop import record_plain
from vlmforge.train.recording import record_mesh

# docs/parity.md states them, in tests/numerics/test_precision.py too.
BF16_BOUNDS = Bounds(losses=2e-3, grad_norms=2e-2, grads=5e-2, logits=5e-2)
# Packed text, windows and capped scores, experts, pictures of their own size in windows, tiles.
OFTEN = ("llama", "gemma2", "qwen3_moe", "qwen2_5_vl", "stitched-siglip-qwen3")


@contextmanager
def few_rows() -> Iterator[None]:
    """Halves of so few tokens as the tests' rows have."""
    with mock.patch.object(halves, "FEWEST_ROWS", 8):
        yield


@contextmanager
def counted() -> Iterator[list[int]]:
    """Along which dims layers were cut."""
    dims: list[int] = []
    inner = halves._cut

    def cut(*args: Any) -> Any:
        found = inner(*args)
        dims.extend([] if found is None else [found.dim])
        return found

    with mock.patch.object(halves, "_cut", cut):
        yield dims


def record(case: Case, folder: Path, **changes: Any) -> tuple[Record, list[int]]:
    """What two threads come to, and along which dims layers were cut."""
    with ExitStack() as stack:
        # On a machine with one core, too.
        stack.enter_context(mock.patch("os.sched_getaffinity", return_value={0, 1}))
        stack.enter_context(few_rows())
        dims = stack.enter_context(counted())
        world = stack.enter_context(open_world(Axes(), "cpu", 60.0))
        return record_mesh(configure(case, folder, **changes), world), dims


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("halves")


def make(case: Case, folder: Path) -> None:
    if not (folder / case.family).exists():
        make_base(folder / case.family, case.family)
    if case.is_lora and not (folder / f"{case.family}-adapter").exists():
        make_adapter(folder / f"{case.family}-adapter", folder / case.family)


CASES = [
    *(Case(family) for family in OFTEN),
    *(Case(family, is_lora=True) for family in ("llama", "qwen3_vl")),
    *(
        pytest.param(Case(family, is_lora), marks=pytest.mark.slow)
        for family in PLAIN + STITCHED
        for is_lora in (False, True)
        if family not in OFTEN and family != "stitched-radio-llama"
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_halves_train_as_a_plain_loop(case: Case, folder: Path) -> None:
    make(case, folder)
    ours, dims = record(case, folder)
    # Text is cut along its second dim, pictures and tiles along their first.
    sees = FAMILIES[case.family.partition("-")[0]].vision is not None
    assert set(dims) == ({0, 1} if sees else {1})
    assert Bounds().broken_by(compare(ours, record_plain(configure(case, folder)))) == []


@pytest.mark.parametrize("mechanism", ["_sum", "_cut_text"])
def test_a_half_that_is_wrong_is_noticed(mechanism: str, folder: Path) -> None:
    case = Case("llama")
    make(case, folder)
    right = halves._cut_text

    def without_borders(hidden: torch.Tensor, cut: int, kwargs: dict[str, Any]) -> Any:
        found = right(hidden, cut, kwargs)
        wrong = [torch.tensor([0, size], dtype=torch.int32) for size in found.sizes]
        return replace(
            found,
            arguments=tuple(
                {**own, "cu_seq_lens_q": borders} for own, borders in zip(found.arguments, wrong, strict=True)
            ),
        )

    # One half's gradients are lost; all samples of a half see those before them.
    wrong = {"_sum": lambda one, other: one, "_cut_text": without_borders}[mechanism]
    with mock.patch.object(halves, mechanism, wrong):
        ours, dims = record(case, folder)
    assert dims
    assert Bounds().broken_by(compare(ours, record_plain(configure(case, folder)))) != []


@pytest.mark.parametrize("case", [Case("llama"), Case("llama", is_lora=True), Case("qwen3_vl")], ids=str)
def test_in_bfloat16_over_float32_masters_it_is_near_float32_and_the_same_bits_each_time(
    case: Case, folder: Path
) -> None:
    make(case, folder)
    ours, dims = record(case, folder, **BF16)
    again, _ = record(case, folder, **BF16)
    assert dims
    assert (ours.losses, ours.grad_norms) == (again.losses, again.grad_norms)
    assert [name for name, grad in ours.grads.items() if not grad.equal(again.grads[name])] == []
    assert BF16_BOUNDS.broken_by(compare(ours, record_plain(configure(case, folder)))) == []


def test_ranks_that_share_weights_train_as_a_plain_loop(folder: Path) -> None:
    case = Case("llama")
    make(case, folder)
    ranks = start_ranks("tests.models.worker_halves", 2, folder)
    plain = record_plain(configure(case, folder))
    wait_for_ranks(ranks)
    for name, bounds in (("fp32", Bounds()), ("bf16", BF16_BOUNDS)):
        assert bounds.broken_by(compare(Record.load(folder / f"ranks-{name}"), plain)) == [], name


@pytest.mark.parametrize(
    "changed", [{"recompute": "full"}, {"recompute": "selective"}, {"compile": True}], ids=lambda changed: str(changed)
)
def test_what_needs_a_layer_in_one_piece_gets_it(changed: dict[str, Any], folder: Path) -> None:
    case = Case("llama")
    make(case, folder)
    with mock.patch("torch.compile", lambda function, **_: function):
        _, dims = record(case, folder, **changed)
    assert dims == []


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=12), multiple=st.sampled_from([1, 64]))
def test_an_arrangement_has_every_sample_whole_and_a_border_where_it_is_cut(lengths: list[int], multiple: int) -> None:
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    with mock.patch.object(halves, "FEWEST_ROWS", 100):
        found = arrange(borders, multiple)
    if found is None:
        # Halves differ by no more than the longest sample: they are too short, or it is most of the difference.
        assert sum(lengths) - max(lengths) < 200 or max(lengths) > 0.3 * sum(lengths)
        return
    total = len(found.taken)
    assert found.taken[found.places].tolist() == list(range(sum(lengths)))
    assert min(found.cut, total - found.cut) >= 100
    assert found.cut % multiple == 0
    assert total % multiple == 0
    ends = found.cu_seq_lens.tolist()
    assert found.cut in ends
    for start, length in zip(borders.tolist(), lengths, strict=False):
        (place,) = [k for k, end in enumerate(ends[:-1]) if end == int(found.places[start])]
        assert ends[place + 1] - ends[place] == length
        assert found.places[start : start + length].diff().unique().tolist() in ([], [1])


@pytest.mark.parametrize(
    ("family", "section", "changes"),
    [
        ("llama", None, {"attention_dropout": 0.1}),
        ("llama", None, {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
        ("qwen3_vl", "text_config", {"attention_dropout": 0.1}),
        ("stitched-radio-llama", "vision_config", {"crops_positions": True}),
    ],
)
def test_layers_that_draw_random_numbers_are_not_halved(
    family: str, section: str | None, changes: dict[str, Any], folder: Path
) -> None:
    case = Case(family)
    make(case, folder)
    model = build_on_meta(configure(case, folder))
    config = model.config if section is None else getattr(model.config, section)
    if section == "vision_config":
        config.crops_positions = False
    assert is_steady(model)
    for name, value in changes.items():
        setattr(config, name, value)
    assert not is_steady(model)


def test_adapters_with_dropout_are_not_halved(folder: Path) -> None:
    case = Case("llama", is_lora=True)
    make(case, folder)
    config = configure(case, folder)
    assert config.stage.adapter is not None
    for dropout in (0.0, 0.1):
        changed = replace(config, stage=replace(config.stage, adapter=replace(config.stage.adapter, dropout=dropout)))
        assert is_steady(build_on_meta(changed)) is (dropout == 0)
