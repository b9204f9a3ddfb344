"""A few steps of training, by vlmforge's own parts and by a plain loop over the same rows, with all gradients."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.config.derived import derive_batch
from vlmforge.config.schema import Config
from vlmforge.data.loader import build_train_loader
from vlmforge.models.adapters import is_adapter
from vlmforge.models.tokenizer import build_tokenizer
from vlmforge.parallel.mesh import World
from vlmforge.parallel.shard import full_tensor
from vlmforge.train import step as step_module
from vlmforge.train.optimizer import build_optimizer
from vlmforge.train.session import build_root
from vlmforge.train.step import train_step

NUM_STEPS = 5
LR = 1e-3
MAX_GRAD_NORM = 1.0
GLOBAL_BATCH_SIZE = 4


@dataclass(frozen=True)
class Case:
    """One way to train; `mutation` names a mechanism that is taken out, to show that the comparison notices."""

    family: str = "llama"
    is_lora: bool = False
    packing: str = "none"
    micro_batch_size: int = 1
    max_tokens: int | None = None
    attention: str = "varlen"
    recompute: str = "none"
    mutation: str = ""
    num_steps: int = NUM_STEPS

    @property
    def name(self) -> str:
        kind = "lora" if self.is_lora else "full"
        cut = f"mbs{self.micro_batch_size}" if self.max_tokens is None else f"max{self.max_tokens}"
        parts = (self.family, kind, self.packing, cut, self.attention, self.recompute)
        return "-".join([*parts, self.mutation] if self.mutation else parts)

    @property
    def reference(self) -> Case:
        """The case whose plain loop this one is compared with: how the batch is cut is none of its business."""
        return Case(self.family, self.is_lora, self.packing, num_steps=self.num_steps)


def configure(case: Case, folder: Path) -> Config:
    """The case as a recipe, through the gates that every user's recipe passes."""
    overrides = [
        f"model.pretrained={folder / case.family}",
        f"model.attention={case.attention}",
        "parallelism.param_dtype=float32",
        f"parallelism.recompute={case.recompute}",
        "stage.seq_len=160",
        f"stage.packing={case.packing}",
        f"stage.micro_batch_size={case.micro_batch_size}",
        f"stage.global_batch_size={GLOBAL_BATCH_SIZE}",
        f"stage.max_steps={case.num_steps}",
        f"stage.optimizer.lr={LR}",
    ]
    if case.max_tokens is not None:
        overrides.append(f"stage.max_tokens_per_micro_batch={case.max_tokens}")
    if case.packing != "none":
        overrides.append("stage.packing_window=12")
    if case.is_lora:
        adapter = folder / f"{case.family}-adapter"
        overrides += [
            "stage.kind=lora",
            "stage.adapter.rank=4",
            "stage.adapter.alpha=8",
            f"stage.adapter.path={adapter}",
        ]
    recipe = Path(__file__).parent / "parity.yaml"
    return load_config(Request("train", {"recipe": [str(recipe)]}, overrides), environ={}).config


def run_vlmforge(case: Case, config: Config, world: World) -> dict[str, Any]:
    """Losses and grad norms of every step, and every parameter's gradient of the first."""
    tokenizer = build_tokenizer(config.model)
    num_accum = derive_batch(config, world.world_size).grad_accum_steps
    loader = build_train_loader(config, tokenizer, world.data_rank, world.num_data_ranks, num_accum)
    with mutate(case.mutation):
        root = build_root(config, world)
        optimizer = build_optimizer(root, config.stage.optimizer)
        results, grads = [], {}

        def record(parameters: Any, max_norm: float | None) -> Tensor:
            if not grads:
                named = root.model.named_parameters()
                grads.update({name: full_tensor(p.grad).clone() for name, p in named if p.grad is not None})
            return clip(parameters, max_norm)

        clip = step_module.clip_grads
        with mock.patch.object(step_module, "clip_grads", record):
            for number, batch in zip(range(1, case.num_steps + 1), loader, strict=False):
                result = train_step(
                    root,
                    optimizer,
                    batch.micro_batches,
                    step=number,
                    lr=LR,
                    max_grad_norm=MAX_GRAD_NORM,
                    world=world,
                )
                results.append(result)
    return {"losses": [r.loss for r in results], "grad_norms": [r.grad_norm for r in results], "grads": grads}


@contextlib.contextmanager
def mutate(name: str) -> Iterator[None]:
    """Take one mechanism out of vlmforge."""
    with contextlib.ExitStack() as stack:
        if name == "no-label-count-reduction":
            # Each rank divides by its own number of label tokens.
            patched = mock.patch.object(step_module, "sum_over_ranks", lambda values, *_: list(values))
            stack.enter_context(patched)
        elif name == "no-adapter-reduction":
            stack.enter_context(mock.patch("vlmforge.parallel.shard.fully_shard", _shard_without_adapters))
        elif name == "use-cache":
            stack.enter_context(_with_cache())
        else:
            assert name == "", name
        yield


def _shard_without_adapters(module: torch.nn.Module, **options: Any) -> Any:
    from torch.distributed.fsdp import fully_shard

    ignored = {parameter for name, parameter in module.named_parameters() if is_adapter(name)}
    return fully_shard(module, **options, ignored_params=ignored)


def _with_cache() -> Any:
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def leave_cache_on(self: Any, *args: Any, use_cache: bool = True, **options: Any) -> Any:
        return forward(self, *args, **options)

    return mock.patch.object(LlamaModel, "forward", leave_cache_on)


def run_plain(case: Case, config: Config) -> dict[str, Any]:
    """The same steps by a loop that anyone could write: one sample a forward, transformers' own logits."""
    assert config.model.pretrained is not None
    model: Any = AutoModelForCausalLM.from_pretrained(config.model.pretrained)
    if case.is_lora:
        assert config.stage.adapter is not None
        model = PeftModel.from_pretrained(model, str(config.stage.adapter.path), is_trainable=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = config.stage.optimizer
    optimizer = torch.optim.AdamW(
        trained, lr=LR, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
    )
    losses, norms, grads = [], [], {}
    for rows in _global_batches(config, case.num_steps):
        samples = [sample for row in rows for sample in row]
        count = sum(int(sample.is_label[1:].sum()) for sample in samples)
        total = 0.0
        for sample in samples:
            ids = torch.from_numpy(sample.input_ids).long()
            is_label = torch.from_numpy(sample.is_label)
            logits = model(input_ids=ids[None]).logits[0].float()
            # The token at t + 1 is predicted from position t, if it is trained.
            loss = F.cross_entropy(logits[:-1][is_label[1:]], ids[1:][is_label[1:]], reduction="sum") / count
            loss.backward()
            total += loss.item()
        if not grads:
            grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        norms.append(torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return {"losses": losses, "grad_norms": norms, "grads": grads}


def _global_batches(config: Config, num_steps: int) -> Iterator[list[Any]]:
    """The rows of each global batch, before anything is cut, shifted or laid end to end."""
    from vlmforge.data.window import build_train_windows

    windows = build_train_windows(config, build_tokenizer(config.model))
    chained = (row for window in map(windows.make, range(1000)) for row in window.rows)
    for _ in range(num_steps):
        yield [next(chained) for _ in range(GLOBAL_BATCH_SIZE)]


def plain_name(name: str, is_lora: bool) -> str:
    """The name that a parameter of vlmforge's model has in the plain one."""
    if not is_lora:
        return name
    return name if not is_adapter(name) else "base_model.model." + name


def save_result(path: Path, result: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(result["grads"], path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_text(json.dumps({key: result[key] for key in ("losses", "grad_norms")}))


def load_result(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    numbers = json.loads(path.with_suffix(".json").read_text())
    return {**numbers, "grads": load_file(path.with_suffix(".safetensors"))}
