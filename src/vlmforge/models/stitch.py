"""Making a stitched model's folder from other folders, and a published one from it, a file at a time.

Nothing is held whole: each tensor is read when it is written, and the files of the result are as large as an export's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from vlmforge.errors import CheckpointError, Problem
from vlmforge.models.export import MAX_FILE_BYTES
from vlmforge.models.stitched_files import LAYOUTS, Layout, Table

# Of new rows of a table and of the projector's matrices; Megatron's scripts for Nemotron say so, those for NVLM 0.014.
INIT_STD = 0.02


@dataclass(frozen=True)
class Source:
    """A folder of safetensors with what of the model lies in it.

    Attributes:
        folder: of the files.
        table: the file's tensors to the model's.
    """

    folder: Path
    table: Table


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

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._files[name].get_tensor(name)


def list_tensors(folder: Path) -> set[str]:
    """Names of a folder's tensors."""
    with ExitStack() as stack:
        return TensorFiles(folder, stack).names()


def stitch(model: PreTrainedModel, sources: Sequence[Source], output: Path, seed: int, dtype: torch.dtype) -> list[str]:
    """Write the weights of a model whose parts are in other folders.

    Args:
        model: on meta.
        sources: of its parts; what is in none of them is drawn.
        output: folder of the result; its weights are replaced.
        seed: of what is drawn.
        dtype: of what is drawn; other tensors keep theirs.

    Returns:
        Names of the tensors that were drawn.

    Raises:
        CheckpointError: a tensor has another shape than the model's.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {own for source in sources for owns in source.table.values() for own in owns}
    drawn = [name for name in shapes if name not in found]
    generator = torch.Generator().manual_seed(seed)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for source in sources:
            yield from _read_parts(source, shapes, model, generator)
        for name in drawn:
            yield name, _draw(name, shapes[name], generator).to(dtype)

    write_folder(output, tensors())
    return drawn


def _read_parts(
    source: Source, shapes: Mapping[str, tuple[int, ...]], model: PreTrainedModel, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    with ExitStack() as stack:
        files = TensorFiles(source.folder, stack)
        for file_name, owns in source.table.items():
            for own, part in zip(owns, files.read(file_name).chunk(len(owns)), strict=True):
                yield own, _fit(own, part, shapes[own], model, source.folder, generator)


def _fit(
    name: str, tensor: Tensor, shape: tuple[int, ...], model: PreTrainedModel, folder: Path, generator: torch.Generator
) -> Tensor:
    """A tensor in the model's shape: with dummy heads of zeros, with new rows of a table, or as it is."""
    if tuple(tensor.shape) == shape:
        return tensor.clone()
    is_table = name.endswith(("embed_tokens.weight", "lm_head.weight"))
    grows = tensor.ndim == len(shape) and all(have <= want for have, want in zip(tensor.shape, shape, strict=True))
    has_dummies = bool(getattr(model.config.vision_config, "num_dummy_heads", 0)) and ".attn." in name
    if tensor.numel() == torch.Size(shape).numel() and tensor.squeeze().shape == torch.Size(shape):
        return tensor.reshape(shape).clone()
    if not grows or not (is_table or has_dummies):
        problem = Problem(
            f"{name} has shape {list(tensor.shape)} in the files and {list(shape)} in the model",
            str(folder),
            "correct model.config, or give the folder that it describes",
        )
        raise CheckpointError(problem)
    # A norm's weight for dummies is never used; ones would be as good.
    grown = torch.zeros(shape, dtype=tensor.dtype)
    if is_table:
        grown = (INIT_STD * torch.randn(shape, generator=generator)).to(tensor.dtype)
    grown[tuple(slice(size) for size in tensor.shape)] = tensor
    return grown


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A new projector: matrices around zero, norms of one, biases of zero."""
    if len(shape) > 1:
        return INIT_STD * torch.randn(shape, generator=generator)
    return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)


def publish(folder: Path, names: Sequence[str], layout_name: str, table: Table, output: Path) -> None:
    """Write the weights of a stitched folder as a published model's files have them.

    Args:
        folder: of a stitched model.
        names: of its parameters.
        layout_name: of `LAYOUTS`.
        table: of that layout.
        output: folder of the result.
    """
    layout = LAYOUTS[layout_name]
    with ExitStack() as stack:
        files = TensorFiles(folder, stack)

        def tensors() -> Iterator[tuple[str, Tensor]]:
            for name, owns in table.items():
                yield name, torch.cat([files.read(own) for own in owns]).to(layout.dtype(name))
            yield from make_buffers(layout)

        write_folder(output, tensors())


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
