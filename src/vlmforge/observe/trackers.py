"""Experiment trackers: TensorBoard and Weights & Biases, both optional.

Each is imported only when it is used. A tracker repeats what metrics.jsonl has; losing one loses nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Receives the metrics of every step."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Record the numbers of one step; what is no number is left out."""
        ...

    def close(self) -> None:
        """Write out what is pending."""
        ...


class TensorBoardTracker:
    """Event files in `<run folder>/tensorboard`, for `tensorboard --logdir runs`."""

    def __init__(self, run_dir: Path, run_name: str, config: Mapping[str, Any], resumed_step: int) -> None:
        """Open the event file.

        Args:
            run_dir: the run folder; its name is what TensorBoard shows, so `run_name` is not needed.
            run_name: unused.
            config: the resolved recipe, shown as text.
            resumed_step: steps after this one, of the run that is continued, are hidden.
        """
        import json

        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resumed_step + 1)
        # Four spaces: TensorBoard shows text as Markdown, and this is its mark for verbatim text.
        recipe = json.dumps(config, indent=2, default=str)
        self._writer.add_text("recipe", "\n".join(f"    {line}" for line in recipe.splitlines()), resumed_step)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Record the numbers of one step."""
        for name, value in select_numbers(metrics).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is pending."""
        self._writer.close()


class WandbTracker:
    """A run of the project `vlmforge`; WANDB_PROJECT, WANDB_MODE and the like are wandb's own."""

    def __init__(self, run_dir: Path, run_name: str, config: Mapping[str, Any], resumed_step: int) -> None:
        """Start the run.

        Args:
            run_dir: the run folder; local files go to its `wandb/`.
            run_name: the name shown.
            config: the resolved recipe.
            resumed_step: unused: a continued run is a new one there, with the steps that it made itself.
        """
        import os

        import wandb  # pyright: ignore[reportMissingImports]

        project = os.environ.get("WANDB_PROJECT", "vlmforge")
        self._run: Any = wandb.init(project=project, name=run_name, dir=str(run_dir), config=dict(config))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Record the numbers of one step."""
        self._run.log(select_numbers(metrics), step=step)

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()


TRACKERS: dict[str, type[TensorBoardTracker] | type[WandbTracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
}


def build_trackers(
    names: Sequence[str] | None,
    run_dir: Path,
    run_name: str,
    config_dict: Mapping[str, Any],
    *,
    resumed_step: int = 0,
) -> list[Tracker]:
    """Build the trackers that are asked for.

    Args:
        names: of `TRACKERS`, installed, which gate 1 has seen to; None: TensorBoard where it is installed, else none.
        run_dir: the run folder.
        run_name: the run's name.
        config_dict: the resolved recipe, as plain containers.
        resumed_step: last step of the run that is continued; 0: a new run.
    """
    if names is None:
        names = ["tensorboard"] if is_installed("tensorboard") else []
    return [TRACKERS[name](run_dir, run_name, config_dict, resumed_step) for name in dict.fromkeys(names)]


def is_installed(package: str) -> bool:
    """Whether a package can be imported; does not import it."""
    return importlib.util.find_spec(package) is not None


def select_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers, without the step itself."""
    return {
        name: value
        for name, value in metrics.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
