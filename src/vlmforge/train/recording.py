"""A few steps on the ranks that are running, recorded in full; one process is a mesh of one."""

# Shapes: T tokens of a row, D hidden, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlmforge.config.derived import derive_batch
from vlmforge.config.schema import Config
from vlmforge.data.collate import collate
from vlmforge.data.images import ImageRule
from vlmforge.data.loader import build_train_loader
from vlmforge.data.sample import Row
from vlmforge.models.head import LossModel
from vlmforge.models.images import build_image_rule
from vlmforge.models.plain import plain_name
from vlmforge.models.shape import find_family
from vlmforge.models.tokenizer import build_tokenizer
from vlmforge.parallel.mesh import World
from vlmforge.parallel.shard import free_gathered, full_tensor
from vlmforge.train.optimizer import build_optimizer
from vlmforge.train.parity import LR, Record
from vlmforge.train.plain_loop import global_batches
from vlmforge.train.session import build_root
from vlmforge.train.step import StepResult, run_forward, train_step


def record_mesh(config: Config, world: World, tell: Callable[[int], None] = lambda number: None) -> Record:
    """Train `stage.max_steps` steps; a collective that gives every rank the same record.

    Args:
        config: of the mesh, with weights and a tokenizer.
        world: the ranks.
        tell: is told of every step that is done.
    """
    tokenizer = build_tokenizer(config.model)
    num_accum = derive_batch(config, world.world_size).grad_accum_steps
    rule = build_image_rule(config.model, tokenizer)
    loader = build_train_loader(config, tokenizer, world.data_rank, world.num_data_ranks, num_accum, image_rule=rule)
    root = build_root(config, world)
    optimizer = build_optimizer(root.model, config.stage.optimizer, find_family(root.model.config).group_of)
    logits = record_logits(root, next(global_batches(config))[0], rule, world.device)
    grads: dict[str, Tensor] = {}

    def keep_first(*_: Any) -> None:
        if not grads:
            named = [(name, p.grad) for name, p in root.model.named_parameters() if p.grad is not None]
            is_lora = config.stage.adapter is not None
            grads.update({plain_name(name, is_lora): full_tensor(grad).clone() for name, grad in named})

    optimizer.register_step_pre_hook(keep_first)
    assert config.stage.max_steps is not None
    results: list[StepResult] = []
    for number, batch in zip(range(1, config.stage.max_steps + 1), loader, strict=False):
        result = train_step(
            root,
            optimizer,
            batch.micro_batches,
            step=number,
            lr_factor=LR / config.stage.optimizer.lr,
            max_grad_norm=config.stage.optimizer.max_grad_norm,
            world=world,
        )
        results.append(result)
        tell(number)
    losses = [math.nan if result.loss is None else result.loss for result in results]
    return Record(losses, [result.grad_norm for result in results], grads, logits)


def record_logits(root: LossModel, row: Row, rule: ImageRule | None, device: torch.device) -> Tensor:
    """`[T, V]` of one row, which every rank is given; a collective.

    Training never makes logits, so they are made here of the hidden states that its forward ends with.
    """
    batch = collate([row], rule).to(device)
    seen: list[Tensor] = []

    def keep(module: Any, arguments: Any, output: Any) -> None:
        seen.append(output.last_hidden_state)

    decoder = root.model.get_submodule(find_family(root.model.config).decoder)
    handle = decoder.register_forward_hook(keep)
    with torch.no_grad():
        run_forward(root, batch)
    handle.remove()
    free_gathered(root)
    (hidden_states,) = seen
    if root.split is not None:
        hidden_states = root.split.join(hidden_states)
    head: Any = root.model.get_output_embeddings()
    weight = full_tensor(head.weight).detach().to(device, torch.float32)
    logits = hidden_states[0, : batch.num_tokens].float() @ weight.T
    softcap = getattr(root.model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
