"""Making a stitched model's folder from other folders, and a published one from it, a file at a time.

Nothing is held whole: each tensor is read when it is written, and the files of the result are as large as an export's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from vlmforge.errors import CheckpointError, Problem
from vlmforge.models.export import MAX_FILE_BYTES
from vlmforge.models.stitched_files import Layout, Stacks, Table

ZERO_HEADS = "heads of zeros"
Fitting = Literal["same", "reshaped", "rows", "heads"]


@dataclass(frozen=True)
class Source:
    """A folder of safetensors with what of the model lies in it.

    Attributes:
        folder: of the files.
        table: the file's tensors to the model's.
        stacks: tensors of the model that hold experts, which the files hold one by one.
    """

    folder: Path
    table: Table
    stacks: Stacks = field(default_factory=dict[str, tuple[tuple[str, ...], ...]])

    @property
    def needed(self) -> frozenset[str]:
        """Names of the file's tensors."""
        stacked = {name for experts in self.stacks.values() for pieces in experts for name in pieces}
        return frozenset(self.table.keys() | stacked)

    @property
    def given(self) -> frozenset[str]:
        """Names of the model's tensors."""
        return frozenset({own for owns in self.table.values() for own in owns} | self.stacks.keys())


class TensorFiles:
    """The tensors of a folder, each read when it is asked for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Open the folder's files until `stack` ends."""
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            opened = stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(opened.keys(), opened)

    def names(self) -> set[str]:
        """All of them."""
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor, which is not read."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._files[name].get_tensor(name)


def list_tensors(folder: Path) -> set[str]:
    """Names of a folder's tensors."""
    with ExitStack() as stack:
        return TensorFiles(folder, stack).names()


@dataclass
class Fit:
    """Brings the tensors of files into a model's shapes, and notes what it added.

    Attributes:
        model: on meta.
        seed: of new rows and of tensors that no file has.
        notes: what was added to the tensors of files, for the user.
    """

    model: PreTrainedModel
    seed: int = 0
    notes: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        """Read the shapes."""
        self.shapes = {name: tuple(parameter.shape) for name, parameter in self.model.named_parameters()}
        self._std: float = self.model.config.initializer_range
        self._generator = torch.Generator().manual_seed(self.seed)

    def check(self, name: str, have: tuple[int, ...], folder: Path) -> Fitting:
        """How a tensor of a file gets the model's shape.

        Args:
            name: of the model's parameter.
            have: shape in the file.
            folder: of the file.

        Raises:
            CheckpointError: in none of the ways there are.
        """
        want = self.shapes[name]
        if have == want:
            return "same"
        if [size for size in have if size > 1] == [size for size in want if size > 1]:
            return "reshaped"
        if name.endswith(("embed_tokens.weight", "lm_head.weight")) and have[1:] == want[1:] and have[0] < want[0]:
            return "rows"
        if self._lacks_dummies(name, have, want):
            return "heads"
        problem = Problem(
            f"{name} has shape {list(have)} in the files and {list(want)} in the model",
            str(folder),
            "correct model.config, or give the folder that it describes",
        )
        raise CheckpointError(problem)

    def adapt(self, name: str, tensor: Tensor, folder: Path) -> Tensor:
        """A tensor in the model's shape: as it is, with new rows of a table, or with heads of zeros.

        Raises:
            CheckpointError: as `check`.
        """
        have, want = tuple(tensor.shape), self.shapes[name]
        kind = self.check(name, have, folder)
        if kind == "rows":
            self.notes.append(f"{name} has {have[0]} rows in the files, and {want[0] - have[0]} new ones now")
            return self._grow(tensor, self._normal(want).to(tensor.dtype))
        if kind == "heads":
            if not any(ZERO_HEADS in note for note in self.notes):
                count = self.model.config.vision_config.num_dummy_heads
                self.notes.append(f"{name} and those like it have no {ZERO_HEADS} in the files; {count} are added")
            # A norm's weight for them is never used; ones would be as good.
            return self._grow(tensor, torch.zeros(want, dtype=tensor.dtype))
        return tensor.reshape(want).clone()

    def draw(self, name: str) -> Tensor:
        """A tensor of a new projector: matrices around zero, norms of one, biases of zero."""
        shape = self.shapes[name]
        if len(shape) > 1:
            return self._normal(shape)
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)

    def _normal(self, shape: tuple[int, ...]) -> Tensor:
        return self._std * torch.randn(shape, generator=self._generator)

    def _grow(self, tensor: Tensor, grown: Tensor) -> Tensor:
        grown[tuple(slice(size) for size in tensor.shape)] = tensor
        return grown

    def _lacks_dummies(self, name: str, have: tuple[int, ...], want: tuple[int, ...]) -> bool:
        """Whether sizes differ by the heads of zeros alone, in the attention of a tower that has some."""
        tower = self.model.config.vision_config
        dummies = getattr(tower, "num_dummy_heads", 0)
        if not dummies or ".attn." not in name or len(have) != len(want):
            return False
        real = tower.num_attention_heads * tower.head_dim
        padded = (real, real + dummies * tower.head_dim)
        return all(pair == padded or pair[0] == pair[1] for pair in zip(have, want, strict=True))


def stitch(fit: Fit, sources: Sequence[Source], output: Path, dtype: torch.dtype) -> list[str]:
    """Write the weights of a model whose parts are in other folders.

    Args:
        fit: to the model's shapes.
        sources: of its parts; what is in none of them is drawn.
        output: folder of the result; its weights are replaced.
        dtype: of what is drawn; other tensors keep theirs.

    Returns:
        Names of the tensors that were drawn.

    Raises:
        CheckpointError: a tensor has another shape than the model's.
    """
    for source in sources:
        _check_shapes(source, fit)
    found = {own for source in sources for own in source.given}
    drawn = [name for name in fit.shapes if name not in found]

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for source in sources:
            yield from _read_parts(source, fit)
        for name in drawn:
            yield name, fit.draw(name).to(dtype)

    write_folder(output, tensors())
    return drawn


def _check_shapes(source: Source, fit: Fit) -> None:
    """All of a folder's, before anything is written."""
    with ExitStack() as stack:
        files = TensorFiles(source.folder, stack)
        for file_name, owns in source.table.items():
            rows, *rest = files.shape(file_name)
            for own in owns:
                fit.check(own, (rows // len(owns), *rest), source.folder)


def _read_parts(source: Source, fit: Fit) -> Iterator[tuple[str, Tensor]]:
    with ExitStack() as stack:
        files = TensorFiles(source.folder, stack)
        for file_name, owns in source.table.items():
            for own, part in zip(owns, files.read(file_name).chunk(len(owns)), strict=True):
                yield own, fit.adapt(own, part, source.folder)
        for own, experts in source.stacks.items():
            stacked = torch.stack([torch.cat([files.read(name) for name in pieces]) for pieces in experts])
            yield own, fit.adapt(own, stacked, source.folder)


def publish(folder: Path, fit: Fit, layout: Layout, table: Table, output: Path) -> None:
    """Write the weights of a stitched folder as a published model's files have them.

    Args:
        folder: of a stitched model.
        fit: to the shapes of the published one, which may have heads of zeros besides.
        layout: of the files.
        table: of that layout.
        output: folder of the result.

    Raises:
        CheckpointError: the folder lacks a tensor, or has one of another shape.
    """
    with ExitStack() as stack:
        files = TensorFiles(folder, stack)
        missing = sorted({own for owns in table.values() for own in owns} - files.names())
        if missing:
            what = f"{folder} lacks {len(missing)} tensors, for example {missing[0]}"
            raise CheckpointError(Problem(what, str(folder), "give the export/ of a stitched model as it was written"))

        rounded: list[str] = []

        def tensors() -> Iterator[tuple[str, Tensor]]:
            for name, owns in table.items():
                whole = torch.cat([fit.adapt(own, files.read(own), folder) for own in owns])
                if whole.dtype.itemsize > layout.dtype(name).itemsize:
                    rounded.append(name)
                yield name, whole.to(layout.dtype(name))
            yield from make_buffers(layout)

        write_folder(output, tensors())
    if rounded:
        fit.notes.append(f"{len(rounded)} tensors are rounded to the type that published files have: {rounded[0]}, ...")


def make_buffers(layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """What a published model's files hold besides weights."""
    for name, (shape, values) in layout.buffers.items():
        is_index = all(isinstance(value, int) for value in values)
        yield name, torch.tensor(values, dtype=torch.int64 if is_index else torch.float32).view(shape)


def write_folder(output: Path, tensors: Iterator[tuple[str, Tensor]]) -> None:
    """Write tensors as they come into files of at most `MAX_FILE_BYTES`, and their index."""
    output.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    waiting: dict[str, Tensor] = {}
    num_files, waiting_bytes, total_bytes = 0, 0, 0

    def flush() -> None:
        nonlocal num_files, waiting_bytes
        num_files += 1
        file = f"model-{num_files:05d}.safetensors"
        save_file(waiting, output / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(waiting, file))
        waiting.clear()
        waiting_bytes = 0

    for name, tensor in tensors:
        num_bytes = tensor.numel() * tensor.element_size()
        if waiting and waiting_bytes + num_bytes > MAX_FILE_BYTES:
            flush()
        waiting[name] = tensor.contiguous()
        waiting_bytes += num_bytes
        total_bytes += num_bytes
    flush()
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (output / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
