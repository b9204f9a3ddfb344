"""Two threads that compute a layer's samples side by side train what a plain loop trains, and the same bits again."""

from __future__ import annotations

import json
import shutil
import time
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
from torch import nn

from vlmforge.config.derived import Axes
from vlmforge.config.schema import Config
from vlmforge.models import FAMILIES, halves
from vlmforge.models.build import build_on_meta, find_layers
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
    inner = halves._divide

    def divide(*args: Any) -> Any:
        found = inner(*args)
        dims.extend([] if found is None else [found.dim])
        return found

    with mock.patch.object(halves, "_divide", divide):
        yield dims


def record(case: Case, folder: Path, **changes: Any) -> tuple[Record, list[int]]:
    """What two threads come to, and along which dims layers were cut."""
    return record_config(configure(case, folder, **changes))


def record_config(config: Config) -> tuple[Record, list[int]]:
    """As `record`."""
    with ExitStack() as stack:
        # On a machine with one core, too.
        stack.enter_context(mock.patch("os.sched_getaffinity", return_value={0, 1}))
        stack.enter_context(few_rows())
        dims = stack.enter_context(counted())
        world = stack.enter_context(open_world(Axes(), "cpu", 60.0))
        return record_mesh(config, world), dims


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
        if family not in OFTEN
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


@pytest.mark.parametrize("mechanism", ["_sum", "_borders_between"])
def test_a_half_that_is_wrong_is_noticed(mechanism: str, folder: Path) -> None:
    case = Case("llama")
    make(case, folder)
    wrong = {
        # One half's gradients are lost.
        "_sum": lambda one, other: one,
        # All samples of a half see those before them.
        "_borders_between": lambda borders, start, end: torch.tensor([0, end - start], dtype=torch.int32),
    }
    with mock.patch.object(halves, mechanism, wrong[mechanism]):
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
def test_an_arrangement_has_every_sample_whole_and_two_halves_about_as_long(lengths: list[int], multiple: int) -> None:
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    with mock.patch.object(halves, "FEWEST_ROWS", 100):
        found = arrange(borders, multiple)
    if found is None:
        # Halves differ by no more than the longest sample: they are too short, or it is most of the difference.
        assert sum(lengths) - max(lengths) < 200 or max(lengths) > 0.3 * sum(lengths)
        return
    total = len(found.taken)
    assert found.taken[found.places].tolist() == list(range(sum(lengths)))
    assert min(found.middle, total - found.middle) >= 100
    assert max(found.middle, total - found.middle) <= 0.65 * total
    if multiple == 1:
        sums = {0}
        for length in lengths:
            sums |= {length + other for other in sums}
        assert abs(total - 2 * found.middle) == min(abs(total - 2 * other) for other in sums)
    assert found.middle % multiple == 0
    assert total % multiple == 0
    ends = found.cu_seq_lens.tolist()
    assert found.middle in ends
    assert found.max_seq_len == max(found.cu_seq_lens.diff())
    samples = set()
    for start, length in zip(borders.tolist(), lengths, strict=False):
        (place,) = [k for k, end in enumerate(ends[:-1]) if end == int(found.places[start])]
        samples.add(place)
        assert ends[place + 1] - ends[place] == length
        assert found.places[start : start + length].diff().unique().tolist() in ([], [1])
    # What fills a half up is a sample of its own at its end.
    others = {ends[place + 1] for place in range(len(ends) - 1) if place not in samples}
    assert others <= {found.middle, total}


def steady_after(changes: dict[str, Any], section: str | None, case: Case, folder: Path) -> bool:
    """Whether layers are, built from the family's base with a config that is changed so."""
    changed = folder / f"{case.family}-changed"
    shutil.copytree(folder / case.family, changed, dirs_exist_ok=True)
    path = changed / "config.json"
    fields = json.loads(path.read_text())
    (fields if section is None else fields[section]).update(changes)
    path.write_text(json.dumps(fields))
    config = configure(case, folder)
    model = build_on_meta(replace(config, model=replace(config.model, pretrained=str(changed))))
    return is_steady(find_layers(model))


@pytest.mark.parametrize(
    ("family", "section", "changes", "expected"),
    [
        ("seed_oss", None, {"residual_dropout": 0.1}, False),
        ("stitched-siglip-qwen3", "vision_config", {"attention_dropout": 0.1}, False),
        ("stitched-radio-llama", "vision_config", {"drop_path_rate": 0.1}, False),
        # Drawn before the first layer, and rotary angles are made there.
        ("stitched-radio-llama", "vision_config", {"crops_positions": True}, True),
        ("llama", None, {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, True),
    ],
)
def test_layers_that_draw_random_numbers_are_found(
    family: str, section: str | None, changes: dict[str, Any], expected: bool, folder: Path
) -> None:
    case = Case(family)
    make(case, folder)
    assert steady_after({}, section, case, folder)
    assert steady_after(changes, section, case, folder) is expected


def test_layers_that_draw_random_numbers_are_left_whole(folder: Path) -> None:
    case = Case("llama", is_lora=True)
    make(case, folder)
    config = configure(case, folder, **BF16)
    assert config.stage.adapter is not None
    dropped = replace(config, stage=replace(config.stage, adapter=replace(config.stage.adapter, dropout=0.1)))
    ours, dims = record_config(dropped)
    assert dims == []
    # Float32 adapters, which one rank keeps to itself, behind the dropout of a bfloat16 input.
    assert ours.losses == pytest.approx(record_config(config)[0].losses, rel=0.05)


def test_a_layer_is_left_whole_that_is_called_with_what_nobody_knows_to_cut(folder: Path) -> None:
    hidden = torch.randn(4, 600, 8)
    assert halves._divide(hidden, None, {"output_attentions": False}) is not None
    assert halves._divide(hidden, None, {"position_embeddings": (torch.randn(4, 600, 8),) * 2}) is None


def test_an_error_in_one_half_is_told_when_the_other_has_ended() -> None:
    ended = []

    class Layer(nn.Module):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            if hidden_states[0, 0, 0] == 0:
                raise RuntimeError("no room for the first half")
            time.sleep(0.3)
            ended.append(True)
            return hidden_states

    layer = Layer()
    halves.apply_halves([layer])
    hidden = torch.stack([torch.zeros(600, 2), torch.ones(600, 2)]).requires_grad_()
    with pytest.raises(RuntimeError, match="no room for the first half"):
        layer(hidden)
    assert ended == [True]


def test_frozen_layers_hand_on_the_gradient_of_their_input() -> None:
    layer = nn.Linear(4, 4).requires_grad_(False)
    hidden = torch.randn(4, 600, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(hidden).square().sum(), hidden)
    halves.apply_halves([layer])
    with counted() as dims:
        (found,) = torch.autograd.grad(layer(hidden_states=hidden).square().sum(), hidden)
    assert dims == [0]
    torch.testing.assert_close(found, expected)
