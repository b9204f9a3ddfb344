"""Norms and gated MLPs that keep less for the backward pass, and make fewer passes over memory in both directions.

transformers writes an RMS norm as seven operations: autograd keeps two float32 copies of what enters it, and undoes
them one by one. Here the norm is one operation that keeps its input and one number a token. A gated MLP keeps what its
two first matrices give, and neither the activation made of it nor what the third one takes in.

The layers stay those of transformers, with their names, their weights and their results. A family says which of its
classes compute what; the check of every gradient against plain transformers covers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmforge.errors import ConfigError, Problem
from vlmforge.models.family import LeanKind
from vlmforge.models.lean_tower import Patches, PictureAttention
from vlmforge.models.shape import find_family
from vlmforge.parallel.tensor import is_cut

# MKL rounds a float32 row of up to 11 by how many there are and where it is among them, and each of 12 to 199 alike.
_FEWEST_ROWS = 16


class _RMSNorm(torch.autograd.Function):
    """`x / rms(x)`, times a weight: after rounding to the type of `x`, or before and with 1 added to the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, adds_one: bool) -> Tensor:
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        ctx.adds_one = adds_one
        # Not where it is the input itself.
        normed = wide * inverse if wide is x else wide.mul_(inverse)
        return normed.mul_(1.0 + weight.float()).to(x.dtype) if adds_one else normed.to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        factor = 1.0 + weight.float() if ctx.adds_one else weight.float()
        wide, inverse = x.float().flatten(0, -2), inverse.flatten(0, -2)
        grad = grad_outputs[0].float().flatten(0, -2)
        products = grad * wide
        grad_weight = torch.mv(products.T, inverse[:, 0]).to(weight.dtype) if ctx.needs_input_grad[1] else None
        # How much of each token's gradient points along the token: scaling it does not change what it is divided by.
        along = torch.mv(products, factor)[:, None] * inverse.pow(3).div_(x.shape[-1])
        grad_x = torch.mul(grad, factor, out=products).mul_(inverse).addcmul_(wide, along, value=-1.0)
        return grad_x.to(x.dtype).view_as(x), grad_weight, None, None


class _Gate(torch.autograd.Function):
    """`act(gate) * up`."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: nn.Module) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (gate, up) = grad_outputs, ctx.saved_tensors
        activation, grad_gate = _undo_activation(ctx.act, gate, grad * up)
        return grad_gate, activation.mul_(grad), None


class _GatedProduct(torch.autograd.Function):
    """`(act(gate) * up) W^T + bias`, of which what is in brackets is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None, act: nn.Module) -> Tensor:
        """`[tokens, outputs]` of twice `[tokens, inputs]` and `[outputs, inputs]`."""
        ctx.save_for_backward(gate, up, weight)
        ctx.act = act
        return F.linear(act(gate).mul_(up), weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (gate, up, weight) = grad_outputs, ctx.saved_tensors
        _, _, needs_weight, needs_bias, _ = ctx.needs_input_grad
        inner = grad @ weight
        activation, grad_gate = _undo_activation(ctx.act, gate, inner * up)
        grad_weight = grad.T @ (activation * up) if needs_weight else None
        return grad_gate, inner.mul_(activation), grad_weight, grad.sum(0) if needs_bias else None, None


def _undo_activation(act: nn.Module, gate: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """`act(gate)` once more, and the gradient of `gate` from that of it."""
    with torch.enable_grad():
        again = gate.detach().requires_grad_()
        activation = act(again)
    return activation.detach(), torch.autograd.grad(activation, again, grad)[0]


class _Norm(nn.Module):
    """A norm whose eps is called as in Llama's."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        return _RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon, False)


class _NormOfOne(nn.Module):
    """Gemma's norm: its weight is the distance from 1."""

    weight: Tensor
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        return _RMSNorm.apply(x, self.weight, self.eps, True)


class _GatedMLP(nn.Module):
    """Llama's MLP."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        gate, up, down = self.gate_proj(x), self.up_proj(x), self.down_proj
        if type(down) is not nn.Linear or is_cut(down):
            return down(_Gate.apply(gate, up, self.act_fn))
        flat = _GatedProduct.apply(gate.flatten(0, -2), up.flatten(0, -2), down.weight, down.bias, self.act_fn)
        return flat.view(*x.shape[:-1], -1)


class _Experts(nn.Module):
    """Experts that multiply a few rows of zeros each beside those of the tokens that go to them, on a CPU.

    There a product of less than `_FEWEST_ROWS` rows is rounded otherwise than one of more: what a token gets would
    depend on how many others, of whatever sample, go the same way.
    """

    num_experts: int

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        num_tokens, num_picked = top_k_index.shape
        num_more = -(-self.num_experts * _FEWEST_ROWS // num_picked) if hidden_states.device.type == "cpu" else 0
        picked = torch.arange(num_more * num_picked, device=top_k_index.device).remainder(self.num_experts)
        index = torch.cat([top_k_index, picked.view(num_more, num_picked).to(top_k_index.dtype)])
        hidden, weights = (F.pad(part, (0, 0, 0, num_more)) for part in (hidden_states, top_k_weights))
        return super().forward(hidden, index, weights)[:num_tokens]


_MIXINS: Mapping[LeanKind, type[nn.Module]] = {
    "norm": _Norm,
    "norm_of_one": _NormOfOne,
    "gated_mlp": _GatedMLP,
    "picture_attention": PictureAttention,
    "patches": Patches,
    "experts": _Experts,
}


def apply_lean(model: PreTrainedModel) -> None:
    """Give the layers of a model, on meta or not, that its family names their lean forward pass, in place.

    Raises:
        ConfigError: the family names a class of which the model has no layer.
    """
    family = find_family(model.config)
    missing = set(family.lean)
    for module in model.modules():
        original = type(module)
        if (kind := family.lean.get(original.__name__)) is not None:
            missing.discard(original.__name__)
            # Still an instance of its own class, by which transformers knows how to initialise it.
            module.__class__ = type(f"Lean{original.__name__}", (_MIXINS[kind], original), {})
    if missing:
        problem = Problem(
            f"family {family.name} names {', '.join(sorted(missing))}, of which {type(model).__name__} has no layer",
            f"src/vlmforge/models/{family.name}.py",
            "correct the family's `lean`",
        )
        raise ConfigError(problem)
