"""Published weights, read by `convert`, against their towers and projectors written out in plain torch.

Nothing of ours is in the reference: it takes tensors by their published names, and the fused queries, keys and values
as the authors stack them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.support.published import fields_of, make_published, overrides
from torch import Tensor
from transformers import AutoModelForImageTextToText

from vlmforge.cli import main

Weights = Mapping[str, Tensor]


def heads_of(flat: Tensor, number: int) -> Tensor:
    """`[N, heads, T, D]` of `[N, T, heads D]`."""
    tiles, tokens, width = flat.shape
    return flat.view(tiles, tokens, number, width // number).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def rms(x: Tensor, weight: Tensor, counted: int) -> Tensor:
    """Over the first `counted` values, and divided by their number."""
    return x / (x[..., :counted].square().sum(-1, keepdim=True) / counted + 1e-6).sqrt() * weight


def see_internvit(w: Weights, pixels: Tensor) -> Tensor:
    """Three heads of 16, and seven of zeros."""
    at = "vision_model.embeddings."
    patches = F.conv2d(pixels, w[f"{at}patch_embedding.weight"], w[f"{at}patch_embedding.bias"], stride=8)
    first = w[f"{at}class_embedding"].expand(len(pixels), 1, 48)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + w[f"{at}position_embedding"]
    for layer in range(2):
        b = {name.partition(f"layers.{layer}.")[2]: t for name, t in w.items() if f"encoder.layers.{layer}." in name}
        fused = F.linear(rms(x, b["norm1.weight"], 48), b["attn.qkv.weight"])
        q, k, v = fused[..., :160], fused[..., 160:320], fused[..., 320:]
        q, k = rms(q, b["attn.q_norm.weight"], 48), rms(k, b["attn.k_norm.weight"], 48)
        seen = attend(*(heads_of(part, 10) for part in (q, k, v)))
        x = x + F.linear(seen, b["attn.proj.weight"], b["attn.proj.bias"]) * b["ls1"]
        inner = F.gelu(F.linear(rms(x, b["norm2.weight"], 48), b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        x = x + F.linear(inner, b["mlp.fc2.weight"], b["mlp.fc2.bias"]) * b["ls2"]
    return project(w, x[:, 1:], eps=1e-6)


def see_radio(w: Weights, pixels: Tensor) -> Tensor:
    """Four heads of 8; a table of 8 x 8 places for 4 x 4 patches, and eight tokens that have none."""
    at = "vision_model.radio_model.model."
    cut = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(len(pixels), 16, 192)
    table = w[f"{at}patch_generator.pos_embed"].view(4, 2, 4, 2, 32)
    patches = F.linear(cut, w[f"{at}patch_generator.embedder.weight"]) + table.mean((1, 3)).view(16, 32)
    first = w[f"{at}patch_generator.cls_token.token"]
    x = torch.cat([first.expand(len(pixels), 8, 32), patches], dim=1)
    for layer in range(2):
        b = {name.partition(f"blocks.{layer}.")[2]: t for name, t in w.items() if f"blocks.{layer}." in name}
        normed = F.layer_norm(x, (32,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        fused = F.linear(normed, b["attn.qkv.weight"], b["attn.qkv.bias"])
        seen = attend(*(heads_of(fused[..., start : start + 32], 4) for start in (0, 32, 64)))
        x = x + F.linear(seen, b["attn.proj.weight"], b["attn.proj.bias"])
        normed = F.layer_norm(x, (32,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        inner = F.gelu(F.linear(normed, b["mlp.fc1.weight"], b["mlp.fc1.bias"]), approximate="tanh")
        x = x + F.linear(inner, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    return project(w, x[:, 8:], eps=1e-5)


def project(w: Weights, patches: Tensor, eps: float) -> Tensor:
    """2 x 2 patches are a token: (0, 0), (0, 1), (1, 0), (1, 1)."""
    corners = [row * 4 + column for row in (0, 2) for column in (0, 2)]
    tokens = torch.stack([patches[:, [at, at + 1, at + 4, at + 5]].flatten(1) for at in corners], dim=1)
    normed = F.layer_norm(tokens, tokens.shape[-1:], w["mlp1.0.weight"], w["mlp1.0.bias"], eps)
    inner = F.gelu(F.linear(normed, w["mlp1.1.weight"], w.get("mlp1.1.bias")))
    return F.linear(inner, w["mlp1.3.weight"], w.get("mlp1.3.bias"))


@pytest.mark.parametrize(("layout", "see"), [("nvlm_d", see_internvit), ("nemotron_nano_vl", see_radio)])
def test_published_weights_see_what_their_authors_code_sees(
    layout: str, see: Callable[[Weights, Tensor], Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {name: tensor.float() for name, tensor in make_published(tmp_path / "published", layout).items()}
    assert main(["convert", *overrides(fields_of(layout)), "checkpoint=published", "output=ours"]) == 0
    model: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        seen = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(seen, see(weights, pixels), rtol=1e-4, atol=1e-4)
