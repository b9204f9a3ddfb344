"""`vlmforge train`: validate a recipe, start the ranks it needs, here or elsewhere, train, save, export."""

from __future__ import annotations

import os
from dataclasses import replace

from vlmforge.commands.configuring import LoadedRecipe, load_config
from vlmforge.commands.launching import hand_over
from vlmforge.commands.rank import run_as_rank
from vlmforge.commands.request import Request
from vlmforge.config.pretrained import SCALE_ORIGIN
from vlmforge.config.remedies import memory_remedies
from vlmforge.errors import ConfigError, Problem
from vlmforge.parallel.launch import ERROR_FILE, launch_ranks
from vlmforge.parallel.slurm import join_slurm


def run(request: Request) -> int:
    """Train the recipe of a request.

    Returns:
        0 when the run is complete, handed over, or stopped where it was told to; 130 when it was interrupted and saved.

    Raises:
        VlmforgeError: the recipe, the data, a checkpoint or the training is wrong.
    """
    return run_as_rank(request, _run)


def _run(request: Request) -> int:
    join_slurm(os.environ)
    loaded = load_config(request, runs_here=True)
    config = replace(loaded.config, run=replace(loaded.config.run, name=loaded.run_name))
    if config.stage.kind == "generate":
        problem = Problem(
            "stage.kind = generate has nothing to train",
            f"recipe {loaded.recipe_name}",
            f"vlmforge generate recipe={loaded.recipe_name} prompt=...",
        )
        raise ConfigError(problem)
    _say_what_tiny_leaves_out(loaded)
    is_rank = "WORLD_SIZE" in os.environ
    if config.launch.kind != "local" and not is_rank:
        return hand_over(request, loaded, config)
    if loaded.batch.world_size > 1 and not is_rank:
        # What a system kills for is its own memory, which the ranks share, with GPUs or without.
        remedies = memory_remedies(config, loaded.batch, "step", has_gpu=False)
        return launch_ranks(request.words(), loaded.batch.world_size, "; or ".join(remedies))
    # What torch's C++ parts write as they lose a connection; the report of all ranks says it once. Read at import.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Imported only now: with torch and transformers it takes seconds, and a mistake is answered before.
    from vlmforge.train.loop import train

    return train(config, loaded.batch)


def _say_what_tiny_leaves_out(loaded: LoadedRecipe) -> None:
    """A tiny run keeps the code path, but for kernels that need a GPU: whoever tries a recipe should know."""
    is_first = os.environ.get("RANK", "0") == "0" and ERROR_FILE not in os.environ
    if is_first and loaded.origins.get("model.kernels") == SCALE_ORIGIN:
        print("scale=tiny: model.kernels = torch, because the recipe's liger kernels need CUDA", flush=True)
