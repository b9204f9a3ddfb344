"""What a checkpoint holds: this list, and nothing found by looking at attributes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from vlmforge.checkpoint.store import SafetensorsReader, read_state, save_step
from vlmforge.models.head import LossModel
from vlmforge.train.optimizer import optimizer_tensors, reset_state


@dataclass
class TrainState:
    """The state of a run between two steps.

    Frozen weights are not saved: they come again from where they came from. Neither are random generators: dropout
    is seeded anew at every step from the run's seed.

    Attributes:
        root: the model; its trained parameters are saved.
        optimizer: both moments of every trained parameter are saved.
        step: optimizer steps done.
        data: position in the data and the ledgers, JSON values.
        num_tokens_seen: real tokens trained on so far.
    """

    root: LossModel
    optimizer: Optimizer
    step: int
    data: dict[str, Any]
    num_tokens_seen: int

    def tensors(self) -> dict[str, Tensor]:
        """Every saved tensor by a name that does not depend on the mesh."""
        trained = {
            f"model.{name}": parameter.detach()
            for name, parameter in self.root.model.named_parameters()
            if parameter.requires_grad
        }
        return trained | optimizer_tensors(self.optimizer, self.root.model)

    def save(self, checkpoints: Path) -> Path:
        """Write the step's folder; a collective."""
        small = {"step": self.step, "data": self.data, "num_tokens_seen": self.num_tokens_seen}
        return save_step(checkpoints, self.step, self.tensors(), small)

    def restore(self, folder: Path) -> None:
        """Read a step's folder into the model and the optimizer; a collective.

        Raises:
            CheckpointError: the folder is incomplete or of another model.
        """
        small = read_state(folder)
        self.step = small["step"]
        self.data = small["data"]
        self.num_tokens_seen = small["num_tokens_seen"]
        reset_state(self.optimizer, self.step)
        SafetensorsReader().read(folder, self.tensors())
