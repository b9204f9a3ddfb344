"""Layers with gradients of their own, in bfloat16; in float32 the numerics tests compare them with plain training."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from tests.support.tiny import load_plain, make_base
from transformers import AutoModelForCausalLM

from vlmforge.errors import ConfigError
from vlmforge.models import FAMILIES, lean
from vlmforge.models.attention import WHOLE, varlen_attention
from vlmforge.models.cpu_attention import visible


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_norms_and_mlps_in_bfloat16_are_as_exact_as_the_plain_ones_and_keep_less(family: str, tmp_path: Path) -> None:
    plain: Any = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / family, family), dtype=torch.bfloat16)
    ours = copy.deepcopy(plain)
    lean.apply_lean(ours)
    exact = copy.deepcopy(plain).float()
    torch.manual_seed(0)
    x, direction = torch.randn(1, 40, 64, dtype=torch.bfloat16), torch.randn(1, 40, 64)
    for part in ("input_layernorm", "mlp"):
        layers = [getattr(model.model.layers[0], part) for model in (exact, plain, ours)]
        (truth, _), (others, kept_by_plain), (mine, kept) = (run_layer(layer, x, direction) for layer in layers)
        assert kept < kept_by_plain
        for true, other, own in zip(truth, others, mine, strict=True):
            assert error(own, true) <= 1.01 * error(other, true)


def run_layer(layer: Any, x: torch.Tensor, direction: torch.Tensor) -> tuple[list[torch.Tensor], int]:
    """What a layer gives, the gradients of its input and weights, and the bytes that it keeps for them."""
    stored: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        stored.append(tensor.numel() * tensor.element_size())
        return tensor

    inputs = x.to(next(layer.parameters()).dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(inputs)
    grads = torch.autograd.grad((out.float() * direction).sum(), [inputs, *layer.parameters()])
    return [out, *grads], sum(stored)


def error(tensor: torch.Tensor, truth: torch.Tensor) -> float:
    """Distance from the truth, relative to its size."""
    return ((tensor.double() - truth.double()).norm() / truth.double().norm()).item()


def test_a_family_that_names_a_class_the_model_has_not_is_told(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "llama", "llama"))
    wrong = replace(FAMILIES["llama"], lean={"LamaRMSNorm": "norm"})
    with mock.patch.object(lean, "find_family", return_value=wrong), pytest.raises(ConfigError, match="LamaRMSNorm"):
        lean.apply_lean(model)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_a_tower_in_bfloat16_is_as_exact_as_the_plain_one(family: str, tmp_path: Path) -> None:
    plain: Any = load_plain(make_base(tmp_path / family, family))
    # As in training: what is in bfloat16 are weights, and not the frequencies of positions.
    plain.set_attn_implementation({"": "sdpa", "vision_config": WHOLE})
    others = cast_weights(copy.deepcopy(plain))
    ours = copy.deepcopy(others)
    lean.apply_lean(ours)
    torch.manual_seed(0)
    # Two pictures of one size and one of another.
    grid = torch.tensor([[1, 4, 4], [1, 4, 4], [1, 2, 6]])
    pixels, direction = torch.randn(44, 384), torch.randn(11, 64)

    def run(model: Any) -> list[torch.Tensor]:
        out = model.model.visual(pixels, grid_thw=grid).pooler_output
        weights = [weight for name, weight in model.model.visual.named_parameters() if "deepstack" not in name]
        return [out, *torch.autograd.grad((out.float() * direction).sum(), weights)]

    truth, theirs, mine = run(plain), run(others), run(ours)
    assert error(mine[0], truth[0]) <= 1.1 * error(theirs[0], truth[0])
    flat = [torch.cat([grad.double().flatten() for grad in grads[1:]]) for grads in (truth, theirs, mine)]
    assert error(flat[2], flat[0]) <= 1.1 * error(flat[1], flat[0])


def cast_weights(model: Any) -> Any:
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


# Times 8 scores are so large that bfloat16 alone knows one digit of them.
@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize(("lengths", "window"), [((12, 8), None), ((12, 8), 4), ((700, 40), None), ((700, 40), 100)])
def test_bfloat16_attention_is_as_exact_as_torchs_own_and_its_gradients_within_twice(
    lengths: tuple[int, int], window: int | None, scale: int
) -> None:
    torch.manual_seed(0)
    num_tokens = sum(lengths)
    heads = [torch.randn(1, n, num_tokens, 8, dtype=torch.bfloat16) for n in (4, 2, 2)]
    heads[0] *= scale
    weight = torch.randn(1, num_tokens, 4, 8)

    def ours(*tensors: torch.Tensor) -> torch.Tensor:
        borders = torch.tensor([0, lengths[0], num_tokens], dtype=torch.int32)
        given = {"cu_seq_lens_q": borders, "max_length_q": max(lengths)}
        return varlen_attention(torch.nn.Identity(), *tensors, None, sliding_window=window, **given)[0]

    def torchs(*tensors: torch.Tensor) -> torch.Tensor:
        parts = zip(*(tensor.split(lengths, dim=2) for tensor in tensors), strict=True)
        outs = [
            F.scaled_dot_product_attention(q, k, v, attn_mask=visible(q.shape[2], window, q.device), enable_gqa=True)
            for q, k, v in parts
        ]
        return torch.cat(outs, dim=2).transpose(1, 2)

    def run(attend: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [head.to(dtype).requires_grad_() for head in heads]
        out = attend(*inputs)
        return [out, *torch.autograd.grad((out.double() * weight).sum(), inputs)]

    exact, others, mine = run(torchs, torch.float64), run(torchs, torch.bfloat16), run(ours, torch.bfloat16)
    for true, other, own, bound in zip(exact, others, mine, (1.01, 2.0, 2.0, 2.0), strict=True):
        assert error(own, true) <= bound * error(other, true)
