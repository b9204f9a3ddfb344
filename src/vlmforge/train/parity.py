"""What a few steps of training came to, and how far two such records differ.

`recording.py` makes them on a mesh or on one process, `plain_loop.py` by a loop that knows nothing of vlmforge.
"""

# Shapes: T tokens of the first global batch's first row, V vocabulary.

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

# Large, so that an update that is wrong on one rank shows in the next step's loss.
LR = 1e-3

# A gradient whose norm is below this share of the norm of all is zero: float32 resolves no less of such sums, so what
# is there is their rounding. Some are zero by mathematics, as of a bias of keys, which adds the same to all scores of
# a query.
RESOLUTION = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Record:
    """What a few steps came to.

    Attributes:
        losses: of every step, before its update.
        grad_norms: of every step, before clipping.
        grads: every trained parameter's gradient in the first step, in full, after clipping, by the plain model's name.
        logits: `[T, V]` of the first row, before the first update.
    """

    losses: list[float]
    grad_norms: list[float]
    grads: Mapping[str, Tensor]
    logits: Tensor

    def save(self, path: Path) -> None:
        """Write `<path>.json` and `<path>.safetensors`."""
        save_file({"logits": self.logits, **{f"grads.{n}": g for n, g in self.grads.items()}}, f"{path}.safetensors")
        Path(f"{path}.json").write_text(json.dumps({"losses": self.losses, "grad_norms": self.grad_norms}))

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read what `save` wrote."""
        tensors = load_file(f"{path}.safetensors")
        logits = tensors.pop("logits")
        numbers = json.loads(Path(f"{path}.json").read_text())
        return cls(**numbers, grads={name.removeprefix("grads."): g for name, g in tensors.items()}, logits=logits)


@dataclass(frozen=True)
class Difference:
    """How far two records are from each other; all relative.

    Attributes:
        losses: of every step.
        grad_norms: of every step.
        grads: of every parameter, the norm of the difference by the norm of the second record's gradient.
        logits: the largest difference by the largest logit.
        zeros: parameters whose gradients are rounding and nothing else on both sides (`RESOLUTION`), so equal.
    """

    losses: list[float]
    grad_norms: list[float]
    grads: Mapping[str, float]
    logits: float
    zeros: frozenset[str] = frozenset()

    def worst_grad(self) -> tuple[str, float]:
        """The parameter whose gradient differs most."""
        return max(self.grads.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1])


@dataclass(frozen=True)
class Bounds:
    """The largest differences that sums in another order explain, in float32."""

    losses: float = 3e-6
    grad_norms: float = 2e-5
    grads: float = 1e-5
    logits: float = 1e-5

    def broken_by(self, difference: Difference) -> list[str]:
        """What is outside, in words; a number that is none is outside too."""
        largest = {
            "loss": (_largest(difference.losses), self.losses),
            "gradient norm": (_largest(difference.grad_norms), self.grad_norms),
            "logits": (difference.logits, self.logits),
        }
        broken = [f"{what} {value:.1e} > {bound:.0e}" for what, (value, bound) in largest.items() if not value <= bound]
        wrong = sorted(name for name, value in difference.grads.items() if not value <= self.grads)
        return broken + [f"gradient of {name} {difference.grads[name]:.1e} > {self.grads:.0e}" for name in wrong]


def _largest(values: list[float]) -> float:
    """The largest, where what is no number is larger than any: `max` would pass over it."""
    return max(values, key=lambda value: math.inf if math.isnan(value) else value)


def compare(ours: Record, other: Record) -> Difference:
    """How far `ours` is from `other`, which must have the same parameters and steps."""
    missing = ours.grads.keys() ^ other.grads.keys()
    assert not missing, f"not trained on both sides: {sorted(missing)}"
    zeros = _zeros(ours.grads) & _zeros(other.grads)
    return Difference(
        losses=_relative(ours.losses, other.losses),
        grad_norms=_relative(ours.grad_norms, other.grad_norms),
        grads={n: 0.0 if n in zeros else _distance(ours.grads[n], grad) for n, grad in other.grads.items()},
        logits=((ours.logits - other.logits).abs().max() / other.logits.abs().max()).item(),
        zeros=zeros,
    )


def _zeros(grads: Mapping[str, Tensor]) -> frozenset[str]:
    """Parameters whose gradients are rounding; not those that are zero bit by bit."""
    norms = {name: grad.norm().item() for name, grad in grads.items()}
    most = RESOLUTION * math.hypot(*norms.values())
    return frozenset(name for name, norm in norms.items() if 0.0 < norm <= most)


def _relative(ours: list[float], other: list[float]) -> list[float]:
    return [abs(a - b) / abs(b) for a, b in zip(ours, other, strict=True)]


def _distance(ours: Tensor, other: Tensor) -> float:
    """Relative to the norm; where that is 0, as of experts that no token goes to, only 0 is right."""
    difference, norm = (ours - other).norm().item(), other.norm().item()
    return difference / norm if norm else (math.inf if difference else 0.0)
