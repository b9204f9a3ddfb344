"""Layers with gradients of their own, in bfloat16; in float32 the numerics tests compare them with plain training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tests.support.tiny import make_base
from transformers import AutoModelForCausalLM

from vlmforge.errors import ConfigError
from vlmforge.models import FAMILIES, lean
from vlmforge.models.attention import varlen_attention


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_norms_and_mlps_in_bfloat16_give_the_same_and_keep_less(family: str, tmp_path: Path) -> None:
    plain: Any = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / family, family), dtype=torch.bfloat16)
    ours: Any = AutoModelForCausalLM.from_pretrained(tmp_path / family, dtype=torch.bfloat16)
    lean.apply_lean(ours)
    torch.manual_seed(0)
    x = torch.randn(1, 40, 64, dtype=torch.bfloat16, requires_grad=True)
    direction = torch.randn(1, 40, 64)
    for part in ("input_layernorm", "mlp"):
        results, kept = {}, {}
        for name, model in (("plain", plain), ("ours", ours)):
            stored: list[int] = []

            def keep(tensor: torch.Tensor, stored: list[int] = stored) -> torch.Tensor:
                stored.append(tensor.numel() * tensor.element_size())
                return tensor

            layer = getattr(model.model.layers[0], part)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                out = layer(x)
            weights = list(layer.parameters())
            results[name] = [out, *torch.autograd.grad((out.float() * direction).sum(), [x, *weights])]
            kept[name] = sum(stored)
        assert kept["ours"] < kept["plain"]
        for mine, other in zip(results["ours"], results["plain"], strict=True):
            assert (mine.float() - other.float()).norm() <= 0.02 * other.float().norm()


def test_a_family_that_names_a_class_the_model_has_not_is_told(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "llama", "llama"))
    wrong = replace(FAMILIES["llama"], lean={"LamaRMSNorm": "norm"})
    with mock.patch.object(lean, "find_family", return_value=wrong), pytest.raises(ConfigError, match="LamaRMSNorm"):
        lean.apply_lean(model)


@pytest.mark.parametrize("window", [None, 4])
def test_bfloat16_attention_has_the_gradients_of_float32(window: int | None) -> None:
    torch.manual_seed(0)
    heads = [torch.randn(1, n, 20, 8, dtype=torch.bfloat16, requires_grad=True) for n in (4, 2, 2)]
    exact = [head.detach().float().requires_grad_() for head in heads]
    borders = {"cu_seq_lens_q": torch.tensor([0, 12, 20], dtype=torch.int32), "max_length_q": 12}
    weight = torch.randn(1, 20, 4, 8)
    for tensors in (heads, exact):
        out, _ = varlen_attention(torch.nn.Identity(), *tensors, None, sliding_window=window, **borders)
        (out.float() * weight).sum().backward()
    for ours, other in zip(heads, exact, strict=True):
        assert ours.grad is not None
        assert other.grad is not None
        assert (ours.grad.float() - other.grad).norm() <= 0.01 * other.grad.norm()
