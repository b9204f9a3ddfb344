"""Sharded tensors on disk, and step folders that are complete or absent.

A step folder holds safetensors files (each rank writes its own shards, through torch's distributed checkpoint) and
`state.json` with the small values. It is written under another name and renamed when everything is on disk, so a
crash leaves no half checkpoint. Nothing is ever unpickled. Tensors are found by name: a checkpoint can be read on
another mesh than the one that wrote it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from vlmforge.checkpoint.steps import STATE_FILE, STEP_PREFIX, list_steps, step_folder
from vlmforge.errors import CheckpointError, Problem
from vlmforge.parallel.tensor import local_tensor

# Of one file of one rank. What is in a file is copied twice before it is written.
FILE_BYTES = 512 * 2**20


def save_step(checkpoints: Path, step: int, tensors: Mapping[str, Tensor], small: Mapping[str, Any]) -> Path:
    """Write one step folder; a collective over all ranks.

    Args:
        checkpoints: folder of step folders.
        step: optimizer steps done.
        tensors: sharded or whole, by names that do not depend on the mesh.
        small: JSON values; rank 0's are written, last.

    Raises:
        OSError: a file of some rank cannot be written.
    """
    target = step_folder(checkpoints, step)
    if step in list_steps(checkpoints):
        # The same state: a run that is stopped again before its next step. Not to be deleted for its own copy.
        dist.barrier()
        return target
    partial = checkpoints / f".{target.name}.partial"
    if _is_main():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    try:
        write_tensors(partial, tensors)
        dist.barrier()
        if _is_main():
            (partial / STATE_FILE).write_text(json.dumps(dict(small), indent=2))
            _flush_to_disk(partial)
    except OSError:
        if _is_main():
            # What is there of it may be what fills the disk.
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if _is_main():
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    dist.barrier()
    return target


def read_state(folder: Path) -> dict[str, Any]:
    """The small values of a step folder.

    Raises:
        CheckpointError: the folder is no complete checkpoint.
    """
    fix = "give a folder like runs/my-run/checkpoints/step-00000100"
    return read_json(folder / STATE_FILE, "is no complete checkpoint", fix)


def read_json(path: Path, without_it: str, fix: str) -> dict[str, Any]:
    """A small JSON file of a folder that is no such folder without it.

    Args:
        path: of the file.
        without_it: what the folder is then, for the message.
        fix: last line of the message.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        problem = Problem(f"{path.parent} {without_it}: {path.name} cannot be read ({error})", str(path.parent), fix)
        raise CheckpointError(problem) from error


def prune(checkpoints: Path, keep_last: int) -> None:
    """Delete all but the newest `keep_last` checkpoints and what crashed saves left; call it on one rank."""
    for partial in checkpoints.glob(f".{STEP_PREFIX}*.partial"):
        shutil.rmtree(partial)
    for step in list_steps(checkpoints)[:-keep_last]:
        shutil.rmtree(step_folder(checkpoints, step))


def drop_after(checkpoints: Path, step: int) -> None:
    """Delete checkpoints of later steps, which a run that goes on from this one will make again; on one rank."""
    for later in list_steps(checkpoints):
        if later > step:
            shutil.rmtree(step_folder(checkpoints, later))


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, every rank its own shards; a collective.

    Raises:
        OSError: a file of some rank cannot be written.
    """
    try:
        with _quiet():
            writer = HuggingFaceStorageWriter(str(folder), _deal_to_files(tensors), save_distributed=True)
            dcp_save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        # Which is no Exception, and raised on every rank: what the first one met is.
        raise next(failure for failure, _ in error.failures.values()) from error


def _deal_to_files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """In which file of each rank a tensor is written, counted from 1; torch takes rank 0's word for all."""
    numbers: dict[str, int] = {}
    number, size = 1, 0
    for name, tensor in tensors.items():
        own = local_tensor(tensor).nbytes
        if size > 0 and size + own > FILE_BYTES:
            number, size = number + 1, 0
        numbers[name] = number
        size += own
    return numbers


class SafetensorsReader:
    """Reads folders of safetensors, written by `write_tensors` or by anyone else, into existing tensors."""

    def shapes(self, folder: Path) -> dict[str, list[int]]:
        """Full shapes of all tensors in the folder by their names.

        Raises:
            CheckpointError: there are no safetensors files, or one is damaged.
        """
        return _shapes(folder)

    def is_all(self, folder: Path, dtype: torch.dtype) -> bool:
        """Whether every tensor in the folder is of this type, float32 or bfloat16, by the files' headers.

        Raises:
            CheckpointError: a file is damaged.
        """
        name = {torch.bfloat16: "BF16", torch.float32: "F32"}[dtype]
        return all(found == {name} for found in map(_read_types, sorted(folder.glob("*.safetensors"))))

    def read(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Fill `tensors` by name, each rank reading its own part; a collective.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        shapes = _shapes(folder)
        for name, tensor in tensors.items():
            if shapes.get(name) != list(tensor.shape):
                problem = Problem(
                    f"tensor {name} has shape {shapes.get(name, 'none')} on disk and {list(tensor.shape)} in the model",
                    str(folder),
                    "remove the override that changes the model's shape, or give weights of this shape",
                )
                raise CheckpointError(problem)
        with _quiet():
            dcp_load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)))


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Full shape of every tensor in a folder; shards are put together by their largest end.

    Raises:
        CheckpointError: there is no file, one is damaged, or a shard of a tensor is missing.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        problem = Problem(f"{folder} holds no .safetensors file", str(folder), "give a folder with model.safetensors")
        raise CheckpointError(problem)
    shapes: dict[str, list[int]] = {}
    num_elements: Counter[str] = Counter()
    for file in files:
        for name, start, shape in _read_header(file):
            end = [a + b for a, b in zip(start, shape, strict=True)]
            shapes[name] = [max(pair) for pair in zip(end, shapes.get(name, end), strict=True)]
            num_elements[name] += math.prod(shape)
    incomplete = [name for name, shape in shapes.items() if num_elements[name] != math.prod(shape)]
    if incomplete:
        problem = Problem(
            f"{folder} lacks a file: {len(incomplete)} tensors are incomplete, for example {incomplete[0]}",
            str(folder),
            "copy the folder again, with every .safetensors file",
        )
        raise CheckpointError(problem)
    return shapes


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    """A file of safetensors.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except SafetensorError as error:
        raise CheckpointError(Problem(f"{file} is damaged: {error}", str(file), "copy or download it again")) from error


def _read_header(file: Path) -> list[tuple[str, list[int], list[int]]]:
    """Name, offset in the full tensor, and shape of every tensor in one file."""
    with _open(file) as opened:
        offsets = json.loads((opened.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
        names = opened.keys()
        shapes = {name: list(opened.get_slice(name).get_shape()) for name in names}
    return [
        (name, list(offsets.get(name, {}).get("saved_offsets", [0] * len(shape))), shape)
        for name, shape in shapes.items()
    ]


def _read_types(file: Path) -> set[str]:
    """The types of a file's tensors, as safetensors calls them."""
    with _open(file) as opened:
        return {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118  # not a mapping


def _flush_to_disk(folder: Path) -> None:
    """Ask the system to write a folder's files out: a rename must not come before the content."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _is_main() -> bool:
    return dist.get_rank() == 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that torch's checkpoint gives in ordinary use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
