"""A few steps of training, by vlmforge's own parts and by a plain loop over the same rows, with all gradients."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.config.derived import Axes
from vlmforge.config.schema import Config
from vlmforge.errors import ConfigError
from vlmforge.models import FAMILIES
from vlmforge.models.adapters import is_adapter
from vlmforge.parallel.context import SequenceSplit, _Exchange
from vlmforge.parallel.mesh import World
from vlmforge.train import step as step_module
from vlmforge.train.parity import Record
from vlmforge.train.recording import record_mesh

NUM_STEPS = 5
GLOBAL_BATCH_SIZE = 4
HOLES = "holes.jsonl"


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
    has_holes: bool = False
    mutation: str = ""
    num_steps: int = NUM_STEPS

    @property
    def name(self) -> str:
        kind = "lora" if self.is_lora else "full"
        cut = f"mbs{self.micro_batch_size}" if self.max_tokens is None else f"max{self.max_tokens}"
        parts = [self.family, kind, self.packing, cut, self.attention, self.recompute]
        return "-".join([*parts, *(["holes"] if self.has_holes else []), *([self.mutation] if self.mutation else [])])

    @property
    def reference(self) -> Case:
        """The case whose plain loop this one is compared with: how the batch is cut is none of its business."""
        return Case(self.family, self.is_lora, self.packing, num_steps=self.num_steps, has_holes=self.has_holes)


def configure(case: Case, folder: Path, axes: Axes | None = None) -> Config:
    """The case as a recipe, through the gates that every user's recipe passes.

    Raises:
        ConfigError: the mesh is refused for it.
    """
    overrides = [
        *(f"parallelism.{axis}={size}" for axis, size in asdict(axes or Axes()).items()),
        f"model.pretrained={folder / case.family}",
        f"model.attention={case.attention}",
        "parallelism.param_dtype=float32",
        f"parallelism.recompute={case.recompute}",
        "stage.seq_len=160",
        f"stage.packing={case.packing}",
        f"stage.global_batch_size={GLOBAL_BATCH_SIZE}",
        f"stage.max_steps={case.num_steps}",
        # Adam's first update is the sign of a gradient: one that is nothing but rounding must not make a whole step.
        "stage.optimizer.eps=1e-6",
    ]
    if FAMILIES[case.family].vision is not None:
        # Pictures of one to a few tokens.
        budget = {"min_pixels": 256, "max_pixels": 1024, "max_tiles": 2}
        overrides += [f"model.image.{name}={budget[name]}" for name in FAMILIES[case.family].image_keys]
        overrides.append("data.train=[{path: 'builtin:image_messages', format: messages}]")
    if case.max_tokens is not None:
        overrides.append(f"stage.max_tokens_per_micro_batch={case.max_tokens}")
    else:
        overrides.append(f"stage.micro_batch_size={case.micro_batch_size}")
    if case.has_holes:
        source = f"{{path: {folder / HOLES}, format: messages}}"
        overrides += [f"data.train=[{source}]", "data.shuffle=false"]
        overrides += ["data.on_bad_sample=skip", "data.max_bad_ratio=1"]
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


def write_holes(folder: Path) -> None:
    """A file of which steps use 1, 4, 2, 3 and 1 samples: the rest has no answer, so nothing in it is trained."""
    rows: list[list[dict[str, str]]] = []
    for number, num_good in enumerate((1, 4, 2, 3, 1)):
        for place in range(GLOBAL_BATCH_SIZE):
            question = {"role": "user", "content": f"question {number} {place}"}
            answer = {"role": "assistant", "content": f"answer {place} " * (1 + place)}
            # The good ones stand at the end of a step's rows.
            rows.append([question, answer] if GLOBAL_BATCH_SIZE - place <= num_good else [question])
    (folder / HOLES).write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))


def write_refusal(folder: Path, mesh: str, case: Case, error: ConfigError) -> None:
    """Keep what validate says of a cell that it refuses."""
    (folder / f"{mesh}-{case.name}.refused").write_text(error.problems[0].what)


def read_refusal(folder: Path, mesh: str, case: Case) -> str | None:
    """What validate said of a cell; None where it is not refused."""
    path = folder / f"{mesh}-{case.name}.refused"
    return path.read_text() if path.exists() else None


def run_vlmforge(case: Case, config: Config, world: World) -> Record:
    """What vlmforge makes of a case, on the ranks that are running."""
    with mutate(case.mutation):
        return record_mesh(config, world)


def mutate(name: str) -> Any:
    """Take one mechanism out of vlmforge."""
    return MUTATIONS[name]() if name else contextlib.nullcontext()


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


def _kv_copies_without_sum(self: SequenceSplit, heads: torch.Tensor) -> torch.Tensor:
    """The first copy of each key-value head has a gradient, the others none."""
    copies = self.size // heads.shape[1]
    return torch.stack([heads, *[heads.detach()] * (copies - 1)], dim=2).flatten(1, 2)


MUTATIONS: dict[str, Callable[[], Any]] = {
    # Each rank divides by its own number of label tokens.
    "no-label-count-reduction": lambda: mock.patch.object(step_module, "sum_over_ranks", lambda values, *_: [*values]),
    "no-adapter-reduction": lambda: mock.patch("vlmforge.parallel.shard.fully_shard", _shard_without_adapters),
    "use-cache": _with_cache,
    "no-head-norm-reduction": lambda: mock.patch("vlmforge.parallel.tensor._by_head", lambda module, _: module.forward),
    "no-low-rank-reduction": lambda: mock.patch("vlmforge.models.adapters._use_in_parts"),
    "labels-counted-twice": lambda: mock.patch.object(World, "num_batch_copies", 1),
    # A rank keeps the gradients that belong to other ranks' tokens.
    "no-gradient-exchange": lambda: mock.patch.object(_Exchange, "backward", lambda ctx, grad: (grad, None)),
    "no-kv-gradient-reduction": lambda: mock.patch.object(SequenceSplit, "share_heads", _kv_copies_without_sum),
}
