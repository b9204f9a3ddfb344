"""Ways to train the same steps that differ in precision, recompute, compiling or where weights are kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.numerics.case import picture_rows
from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.config.derived import Axes
from vlmforge.config.schema import Config
from vlmforge.models import FAMILIES

MESHES = {"dp_shard2": Axes(dp_shard=2), "tp2": Axes(tp=2), "cp2": Axes(cp=2)}


@dataclass(frozen=True)
class Case:
    """What is trained, for two steps of packed rows."""

    family: str
    is_lora: bool = False


SEEING = ("qwen2_5_vl", "qwen3_vl", "internvl", "stitched-siglip-llama")
FULL = Case("qwen3")
LORA = replace(FULL, is_lora=True)

BF16 = {"param_dtype": "bfloat16"}
# Each name is a file's; what it changes of `parallelism`.
RUNS: Mapping[str, tuple[Case, dict[str, Any]]] = {
    "bf16": (FULL, BF16),
    "bf16-lora": (LORA, BF16),
    "bf16-selective": (FULL, {**BF16, "recompute": "selective"}),
    "bf16-full": (FULL, {**BF16, "recompute": "full"}),
    "bf16-offload": (FULL, {**BF16, "cpu_offload": True}),
}
# By name: the mesh, what is trained, what else is changed. Recomputing needs a layer in one piece, which that of tp is
# not. Llama's layers are all of one kind; of models that see, the text's layers are compiled.
COMPILED: Mapping[str, tuple[str, Case, dict[str, Any]]] = {
    "llama-dp_shard2": ("dp_shard2", replace(LORA, family="llama"), {"recompute": "selective"}),
    "llama-tp2": ("tp2", replace(FULL, family="llama"), {}),
    **{f"{family}-dp_shard2": ("dp_shard2", replace(FULL, family=family), {}) for family in SEEING},
}


def configure(case: Case, folder: Path, axes: Axes | None = None, **changes: Any) -> Config:
    """A case with other keys of `parallelism`; past the check that keeps offloading to machines with a GPU."""
    overrides = [
        *(f"parallelism.{axis}={size}" for axis, size in asdict(axes or Axes()).items()),
        f"model.pretrained={folder / case.family}",
        "model.attention=varlen",
        "parallelism.param_dtype=float32",
        "stage.seq_len=160",
        "stage.packing=best_fit",
        "stage.packing_window=12",
        "stage.micro_batch_size=2",
        "stage.global_batch_size=4",
        "stage.max_steps=2",
        "stage.optimizer.eps=1e-6",
    ]
    overrides += picture_rows(FAMILIES[case.family.partition("-")[0]])
    if case.is_lora:
        adapter = folder / f"{case.family}-adapter"
        overrides += ["stage.kind=lora", "stage.adapter.rank=4", "stage.adapter.alpha=8"]
        overrides.append(f"stage.adapter.path={adapter}")
    recipe = str(Path(__file__).parent / "parity.yaml")
    config = load_config(Request("train", {"recipe": [recipe]}, overrides), environ={}).config
    return replace(config, parallelism=replace(config.parallelism, **changes))


def traced_only() -> AbstractContextManager[Any]:
    """What torch.compile traces, forward and backward, runs without the C++ that takes most of a compilation's time."""
    return mock.patch.object(torch, "compile", partial(torch.compile, backend="aot_eager"))
