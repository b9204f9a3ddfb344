"""The loss over labelled positions, and the isolation of samples that share a row."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tiny import make_base
from transformers import AutoModelForCausalLM

from vlmforge.models import FAMILIES, head
from vlmforge.models.attention import VARLEN
from vlmforge.models.head import LossModel, linear_cross_entropy_sum
from vlmforge.models.lean import apply_lean

LENGTHS = (9, 5, 13)
LENGTHS_OF_ROWS = st.lists(st.integers(1, 14), min_size=2, max_size=4)
EXAMPLES = settings(max_examples=5, deadline=None)


def inputs(lengths: tuple[int, ...] = LENGTHS) -> dict[str, torch.Tensor | int]:
    torch.manual_seed(0)
    borders = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    return {
        "input_ids": torch.randint(0, 256, (1, borders[-1])),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens": torch.tensor(borders, dtype=torch.int32),
        "max_seq_len": max(lengths),
    }


TEXT = {name: family for name, family in FAMILIES.items() if family.vision is None}

# Every family with every attention that gate 1 lets through for packed rows.
PAIRS = [
    (name, attention)
    for name, family in TEXT.items()
    for attention in (VARLEN, "sdpa", "eager")
    if attention == VARLEN or (attention in family.attentions and "attention_chunk_size" not in family.fields)
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: make_base(folder / family, family) for family in TEXT}


@pytest.fixture(params=list(TEXT))
def base(request: pytest.FixtureRequest, bases: dict[str, Path]) -> Path:
    return bases[request.param]


@pytest.mark.parametrize(("family", "attention"), PAIRS)
def test_a_sample_is_bit_equal_whatever_its_neighbours_are(family: str, attention: str, bases: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(bases[family], attn_implementation=attention)
    # As training does: plain experts round a token otherwise when they are given another number of tokens.
    apply_lean(model)
    root = LossModel(model).eval()

    @EXAMPLES
    @given(lengths=LENGTHS_OF_ROWS, kept=st.integers(0, 3))
    def check(lengths: list[int], kept: int) -> None:
        batch = inputs(tuple(lengths))
        start, stop = batch["cu_seq_lens"].tolist()[kept % len(lengths) :][:2]
        is_kept = torch.zeros(sum(lengths), dtype=torch.bool)
        is_kept[start:stop] = True
        changed = torch.where(is_kept, batch["input_ids"], (batch["input_ids"] + 1) % 256)
        with torch.no_grad():
            before = root.hidden_states(**batch)
            after = root.hidden_states(**{**batch, "input_ids": changed})
        assert torch.equal(before[0, is_kept], after[0, is_kept])
        assert not torch.equal(before[0, ~is_kept], after[0, ~is_kept])

    check()


@pytest.mark.parametrize(("family", "attention"), PAIRS)
def test_a_packed_sample_is_what_it_is_alone(family: str, attention: str, bases: dict[str, Path]) -> None:
    root = LossModel(AutoModelForCausalLM.from_pretrained(bases[family], attn_implementation=attention)).eval()
    plain = AutoModelForCausalLM.from_pretrained(bases[family]).eval()

    @EXAMPLES
    @given(lengths=LENGTHS_OF_ROWS)
    def check(lengths: list[int]) -> None:
        batch = inputs(tuple(lengths))
        with torch.no_grad():
            packed = root.hidden_states(**batch)
            for start, stop in pairwise(batch["cu_seq_lens"].tolist()):
                alone = plain.model(input_ids=batch["input_ids"][:, start:stop]).last_hidden_state
                assert torch.allclose(packed[:, start:stop], alone, atol=1e-5)

    check()


def test_the_windows_of_the_tests_hide_something(base: Path) -> None:
    """With samples no longer than the windows, the tests above would hold for a model without windows too."""
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    lengths = [n for n in ("sliding_window", "attention_chunk_size") if getattr(model.config, n, None) is not None]
    ids = torch.arange(13)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        for name in lengths:
            setattr(model.config, name, 64)
        for module in model.modules():
            if getattr(module, "sliding_window", None) is not None:
                module.sliding_window = 64
        after = model(input_ids=ids).logits
    assert torch.equal(before, after) is not bool(lengths)


def test_a_sliding_window_sees_only_so_far() -> None:
    from vlmforge.models.attention import varlen_attention

    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 20, 8) for _ in range(3))
    borders = torch.tensor([0, 12, 20], dtype=torch.int32)
    out, _ = varlen_attention(
        torch.nn.Identity(), query, key, value, None, sliding_window=4, cu_seq_lens_q=borders, max_length_q=12
    )
    # Position 11 of the first sample sees 8 to 11, and position 2 of the second 12 to 14.
    for at, first in ((11, 8), (14, 12)):
        scores = (query[0, :, at, None] * key[0, :, first : at + 1]).sum(-1) * 8**-0.5
        expected = (scores.softmax(-1)[..., None] * value[0, :, first : at + 1]).sum(1)
        assert torch.allclose(out[0, at], expected, atol=1e-6)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("slice_elements", [1, 64 * 3, 2**25])
def test_loss_and_gradients_equal_torchs_own_in_slices_of_any_size(
    slice_elements: int, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "SLICE_ELEMENTS", slice_elements)
    torch.manual_seed(0)
    hidden, weight = torch.randn(10, 16, requires_grad=True), torch.randn(64, 16, requires_grad=True)
    labels = torch.randint(0, 64, (10,))
    ours = linear_cross_entropy_sum(hidden, weight, labels, softcap)
    grads = torch.autograd.grad(ours / 7, (hidden, weight))
    logits = hidden @ weight.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    theirs = F.cross_entropy(logits, labels, reduction="sum")
    expected = torch.autograd.grad(theirs / 7, (hidden, weight))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for grad, other in zip(grads, expected, strict=True):
        assert torch.allclose(grad, other, rtol=1e-4, atol=1e-6)


def test_the_loss_of_bfloat16_is_summed_in_float32() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(512, 32).bfloat16(), torch.randn(1000, 32).bfloat16()
    labels = torch.randint(0, 1000, (512,))
    ours = linear_cross_entropy_sum(hidden, weight, labels)
    exact = F.cross_entropy(hidden.double() @ weight.double().T, labels, reduction="sum")
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(exact.item(), rel=1e-4)


def test_no_gradient_is_made_for_a_frozen_head() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(16, 8)
    linear_cross_entropy_sum(hidden, weight, torch.tensor([1, 2, 3, 4])).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_the_head_runs_over_labelled_positions_only(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    real = linear_cross_entropy_sum

    def spy(hidden: torch.Tensor, *others: Any) -> torch.Tensor:
        seen.append(tuple(hidden.shape))
        return real(hidden, *others)

    monkeypatch.setattr(head, "linear_cross_entropy_sum", spy)
    root = LossModel(AutoModelForCausalLM.from_pretrained(base))
    batch = inputs()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, 3:6] = 7
    root(**batch, labels=labels).backward()
    assert seen == [(3, 64)]


def test_a_batch_without_labels_gives_zero_and_a_gradient_for_every_parameter(base: Path) -> None:
    root = LossModel(AutoModelForCausalLM.from_pretrained(base))
    batch = inputs((1,))
    loss = root(**batch, labels=torch.full_like(batch["input_ids"], -100))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in root.parameters())
