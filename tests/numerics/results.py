"""Training a case on the ranks that are running, and the files in which what came of it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

from tests.numerics.case import Case, configure
from tests.numerics.mutations import mutate
from vlmforge.errors import ConfigError
from vlmforge.parallel.mesh import World, gather_objects
from vlmforge.train.parity import Bounds, Difference, Record, compare
from vlmforge.train.plain_loop import record_plain
from vlmforge.train.recording import record_mesh


@contextmanager
def one_thread() -> Iterator[None]:
    """For a process beside the ranks: threads that wait for each other on cores that others use take far longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with mock.patch("vlmforge.parallel.mesh._share_threads"):
        yield
    torch.set_num_threads(before)


def train(case: Case, mesh: str, world: World, folder: Path) -> None:
    """Record a case, or why it is refused; a collective."""
    path = folder / f"{mesh}-{case.name}"
    try:
        config = configure(case, folder, world.axes)
    except ConfigError as error:
        if world.is_main:
            path.with_name(f"{path.name}.refused").write_text(error.problems[0].what)
        return
    with mutate(case.mutation):
        record = record_mesh(config, world)
    # What is whole on every rank must stay the same there, bit for bit, and the records are gathered of it.
    are_equal = len(set(gather_objects(_digest(record)))) == 1
    assert are_equal or case.mutation, f"{path.name}: ranks do not have the same"
    if world.is_main:
        record.save(path)


def _digest(record: Record) -> str:
    digest = hashlib.sha256(repr((record.losses, record.grad_norms)).encode())
    for name, grad in record.grads.items():
        digest.update(name.encode() + grad.contiguous().numpy().tobytes())
    return digest.hexdigest()


def train_plain(case: Case, folder: Path) -> None:
    """Record the plain loop that cases are compared with."""
    record_plain(configure(case.reference, folder)).save(folder / f"plain-{case.reference.name}")


def read_refusal(folder: Path, mesh: str, case: Case) -> str | None:
    """What validate said of a case; None where it is not refused."""
    path = folder / f"{mesh}-{case.name}.refused"
    return path.read_text() if path.exists() else None


def read_difference(folder: Path, mesh: str, case: Case) -> Difference:
    """How far a case is from its plain loop."""
    ours, plain = (Record.load(folder / name) for name in (f"{mesh}-{case.name}", f"plain-{case.reference.name}"))
    assert len(ours.losses) == case.num_steps >= 3
    # The loop goes on for all who are compared with it.
    same = slice(case.num_steps)
    return compare(ours, replace(plain, losses=plain.losses[same], grad_norms=plain.grad_norms[same]))


def broken_bounds(folder: Path, mesh: str, case: Case) -> list[str]:
    """What differs from the plain loop by more than sums in another order explain."""
    difference = read_difference(folder, mesh, case)
    unexplained = sorted(name for name in difference.zeros if not is_zero(name))
    return Bounds().broken_by(difference) + [f"{name} was not compared: it is all rounding" for name in unexplained]


def is_zero(parameter: str) -> bool:
    """Whether a gradient is zero by mathematics: of a tower's bias of keys, which moves all scores of a query alike.

    A language model turns keys by their place, so there such a bias counts.
    """
    return "vision_tower" in parameter and "k_proj." in parameter and parameter.endswith("bias")
