"""Tasks before and after training, every rank answering its share of the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vlmforge.config.schema import Config
from vlmforge.data.sample import Sample
from vlmforge.evaluate import TASKS
from vlmforge.evaluate.score import answer_samples, score
from vlmforge.generate.find import find_checkpoint
from vlmforge.generate.load import load_checkpoint
from vlmforge.observe.progress import Progress
from vlmforge.parallel.mesh import World, gather_objects
from vlmforge.train.interrupt import Stopped, StopWish


def score_tasks(
    config: Config, folder: str, samples: Sequence[Sample], world: World, progress: Progress, wish: StopWish
) -> dict[str, Any]:
    """Scores of every task of the recipe; a collective.

    The model is loaded from a folder as any user would load it, so that what is scored is what was exported.

    Args:
        config: tasks and generation settings.
        folder: a Hugging Face or PEFT folder, or a hub id.
        samples: held-out samples.
        world: divides the samples among its ranks.
        progress: counts rank 0's answers.
        wish: looked at after every answer.

    Raises:
        Stopped: on every rank, when one was told to stop before its last answer.
    """
    if not config.evaluate.tasks:
        return {}
    loaded = load_checkpoint(find_checkpoint(folder), config, world.device)
    share = samples[world.rank :: world.world_size]
    # A line for each quarter: generation can take minutes, and a line for each batch would fill a log.
    every = max(1, math.ceil(len(share) / 4))

    def show(done: int) -> None:
        if wish.is_set and done < len(share):
            raise Stopped
        if done % every == 0 or done == len(share):
            progress.message(f"  answered {done * world.world_size} of {len(samples)}")

    try:
        own = answer_samples(loaded, share, config.stage.generation, show)
    except Stopped:
        own = None
    parts = gather_objects(own)
    if None in parts:
        raise Stopped
    answers = [parts[index % world.world_size][index // world.world_size] for index in range(len(samples))]
    return {name: score(TASKS[name], answers) for name in config.evaluate.tasks}
