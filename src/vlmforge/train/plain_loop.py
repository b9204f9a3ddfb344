"""The same steps by a loop that anyone could write: a sample a forward, transformers' logits, torch's clipping."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW

from vlmforge.config.schema import Config
from vlmforge.data.images import ImageRule, make_image_tensors
from vlmforge.data.sample import RenderedSample, Row
from vlmforge.data.window import build_train_windows
from vlmforge.models.family import Family
from vlmforge.models.images import build_image_rule
from vlmforge.models.plain import load_plain
from vlmforge.models.shape import find_family
from vlmforge.models.tokenizer import build_tokenizer
from vlmforge.train.parity import LR, Record


def record_plain(config: Config, tell: Callable[[int], None] = lambda number: None) -> Record:
    """Train `stage.max_steps` steps on this process alone; `tell` is told of each that is done."""
    model: Any = load_plain(config)
    rule = build_image_rule(config.model, build_tokenizer(config.model))
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained = list(named.values())
    optimizer = _build_optimizer(named, config, find_family(model.config))
    max_norm = config.stage.optimizer.max_grad_norm or math.inf
    batches = global_batches(config)
    first = next(batches)
    with torch.no_grad():
        logits = torch.cat([_logits(model, sample, rule) for sample in first[0]])
    losses: list[float] = []
    norms: list[float] = []
    grads: dict[str, Tensor] = {}
    assert config.stage.max_steps is not None
    for rows in [first, *(next(batches) for _ in range(config.stage.max_steps - 1))]:
        losses.append(_backward(model, [sample for row in rows for sample in row], rule))
        norms.append(_clip(trained, max_norm))
        grads = grads or {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        tell(len(losses))
    return Record(losses, norms, grads, logits)


def global_batches(config: Config) -> Iterator[list[Row]]:
    """The rows of each global batch, before anything is cut, shifted or laid end to end."""
    tokenizer = build_tokenizer(config.model)
    maker = build_train_windows(config, tokenizer, image_rule=build_image_rule(config.model, tokenizer))
    windows = map(maker.make, itertools.count())
    if config.stage.packing == "none":
        # A window is a step; a sample that is left out makes it shorter.
        yield from (list(window.rows) for window in windows)
    rows = (row for window in windows for row in window.rows)
    while True:
        yield [next(rows) for _ in range(config.stage.global_batch_size)]


def _build_optimizer(named: Mapping[str, Tensor], config: Config, family: Family) -> AdamW:
    settings = config.stage.optimizer
    groups: list[dict[str, Any]] = []
    for name, parameter in named.items():
        is_spared = settings.decay == "matrices" and (parameter.ndim < 2 or name.endswith(".bias"))
        peak = getattr(settings.group_lr, family.group_of(name.removeprefix("base_model.model."))) or settings.lr
        decay = 0.0 if is_spared else settings.weight_decay
        groups.append({"params": [parameter], "lr": LR * peak / settings.lr, "weight_decay": decay})
    return AdamW(groups, betas=settings.betas, eps=settings.eps)


def _clip(trained: Sequence[Tensor], max_norm: float) -> float:
    """What `torch.nn.utils.clip_grad_norm_` does, with the norm in float64.

    On a CPU torch's is 1e-5 off for a matrix of a million entries, and then so are all gradients that it scales.
    """
    grads = [parameter.grad for parameter in trained if parameter.grad is not None]
    norm = math.hypot(*(grad.double().norm().item() for grad in grads))
    for grad in grads:
        grad.mul_(min(1.0, max_norm / (norm + 1e-6)))
    return norm


def _backward(model: Any, samples: Sequence[RenderedSample], rule: ImageRule | None) -> float:
    """Add up the gradients of the mean loss over all labelled tokens, or weighed turns; returns that loss."""
    count = sum(sample.total_weight for sample in samples)
    total = 0.0
    for sample in samples:
        ids, is_label = torch.from_numpy(sample.input_ids).long(), torch.from_numpy(sample.is_label)
        logits = _logits(model, sample, rule)
        # The token at t + 1 is predicted from position t, if it is trained.
        losses = F.cross_entropy(logits[:-1][is_label[1:]], ids[1:][is_label[1:]], reduction="none")
        loss = (losses * torch.from_numpy(sample.token_weights())[is_label[1:]]).sum() / count
        # Of a frozen language model, a sample without a picture has nothing to train.
        if loss.requires_grad:
            loss.backward()
        total += loss.item()
    return total


def _logits(model: Any, sample: RenderedSample, rule: ImageRule | None) -> Tensor:
    """`[S, V]`; pictures go in as transformers' processors give them, and positions are the model's own."""
    ids = torch.from_numpy(sample.input_ids).long()[None]
    images = None if rule is None else make_image_tensors([sample], rule)
    if images is None:
        return model(input_ids=ids).logits[0].float()
    more: dict[str, Tensor] = {"pixel_values": images.pixel_values}
    if images.image_grid_thw is not None:
        is_image = ids == model.config.image_token_id
        more |= {"image_grid_thw": images.image_grid_thw, "mm_token_type_ids": is_image.int()}
    return model(input_ids=ids, **more).logits[0].float()
