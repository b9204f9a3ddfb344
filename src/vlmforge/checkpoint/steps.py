"""The step folders of a run: how they are called, and which are complete."""

from __future__ import annotations

from pathlib import Path

# Small values of a step; it is written last.
STATE_FILE = "state.json"
STEP_PREFIX = "step-"


def step_folder(checkpoints: Path, step: int) -> Path:
    """`checkpoints/step-00000100` for step 100."""
    return checkpoints / f"{STEP_PREFIX}{step:08d}"


def list_steps(checkpoints: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    if not checkpoints.is_dir():
        return []
    names = [path.parent.name for path in checkpoints.glob(f"{STEP_PREFIX}*/{STATE_FILE}")]
    return sorted(int(name.removeprefix(STEP_PREFIX)) for name in names)
