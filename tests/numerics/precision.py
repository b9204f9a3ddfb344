"""Ways to train the same steps that differ in precision, recompute, compiling or where weights are kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.numerics.harness import Case, configure
from vlmforge.config.derived import Axes
from vlmforge.config.schema import Config

MESHES = {"dp_shard2": Axes(dp_shard=2), "tp2": Axes(tp=2), "cp2": Axes(cp=2)}
FULL = Case("qwen3", False, "best_fit", 2, num_steps=2)
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
# Recomputing needs a layer in one piece, which that of tp is not. Llama's layers are all of one kind.
COMPILED: Mapping[str, tuple[Case, dict[str, Any]]] = {
    "dp_shard2": (replace(LORA, family="llama"), {"recompute": "selective"}),
    "tp2": (replace(FULL, family="llama"), {}),
}


def configure_run(case: Case, changes: Mapping[str, Any], folder: Path, axes: Axes | None = None) -> Config:
    """A case with other keys of `parallelism`; past the check that keeps offloading to machines with a GPU."""
    config = configure(case, folder, axes)
    return replace(config, parallelism=replace(config.parallelism, **changes))


def traced_only() -> AbstractContextManager[Any]:
    """What torch.compile traces, forward and backward, runs without the C++ that takes most of a compilation's time."""
    return mock.patch.object(torch, "compile", partial(torch.compile, backend="aot_eager"))
