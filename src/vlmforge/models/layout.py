"""Where a model's tensors are in its files, if not under their own names.

Some families differ: experts that the model holds as one tensor are in a file one by one, the text part of an
image-text model has a prefix there, and image-text models have the prefixes of before transformers 5. Reading gives
each rank its own experts only; writing cuts up a tensor that was gathered already. Both follow what transformers
reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from torch import Tensor

from vlmforge.models.family import Family, Fused
from vlmforge.parallel.shard import local_rows

# Frequencies that files of before 2023 hold, and every model computes.
COMPUTED = "rotary_emb.inv_freq"


@dataclass(frozen=True)
class FileTensors:
    """What is to be read from a folder.

    Attributes:
        tensors: name in the files to the tensor, or the part of one, that it fills on this rank.
        missing: names that the folder should have and has not, sorted.
        left_over: names of the folder that belong to nothing of the model, sorted.
    """

    tensors: Mapping[str, Tensor]
    missing: list[str]
    left_over: list[str]


def match_files(
    family: Family, parameters: Mapping[str, Tensor], aliases: Set[str], available: Set[str]
) -> FileTensors:
    """Find the parameters of a model, sharded or not, among the names in a folder.

    Args:
        family: of the model.
        parameters: by their names in the model without adapters.
        aliases: further names of tied parameters, which a folder may or may not repeat.
        available: all names in the folder.
    """
    prefix = _prefix(family, available)
    in_file = {_rename(family, name.removeprefix(prefix)): name for name in available if name.startswith(prefix)}
    named = in_file.keys()
    tensors: dict[str, Tensor] = {}
    expected: set[str] = set()
    for name, parameter in parameters.items():
        fused = _find_fused(family, name)
        if fused is None or name in named:
            tensors[name] = parameter
            expected.add(name)
            continue
        expected |= {piece for expert in range(parameter.shape[0]) for piece in _piece_names(name, fused, expert)}
        local, first = local_rows(parameter)
        for index, matrix in enumerate(local):
            tensors |= dict(_split_expert(name, fused, first + index, matrix))
    extra = {name for name in named - expected - aliases if not name.endswith(COMPUTED)}
    return FileTensors(
        {in_file.get(name, prefix + name): tensor for name, tensor in tensors.items()},
        sorted(prefix + name for name in expected - named),
        sorted(in_file[name] for name in extra),
    )


def as_in_file(family: Family, name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor to be read, or a view of it with inputs and outputs swapped if that is how the file has it.

    Args:
        family: of the model.
        name: of the tensor in the file.
        tensor: of the model, sharded or not.
        shape: in the file.
    """
    is_swapped = name.endswith(family.swapped) and list(tensor.shape) != list(shape) == list(tensor.mT.shape)
    return tensor.mT if is_swapped else tensor


def split_for_file(family: Family, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Names in the file, with views of a full tensor of the model."""
    fused = _find_fused(family, name)
    if fused is None:
        yield _name_in_file(family, name), tensor
        return
    for expert, matrix in enumerate(tensor):
        yield from _split_expert(name, fused, expert, matrix)


def _prefix(family: Family, available: Set[str]) -> str:
    wrapper = family.wrapper
    if wrapper is None or not any(name.startswith(wrapper.prefix) for name in available):
        return ""
    return wrapper.prefix


def _rename(family: Family, name: str) -> str:
    """The model's name of a tensor in a file: as it is where it has a prefix of the model's own."""
    if name.startswith(tuple(prefix for _, prefix in family.renamed)):
        return name
    for old, new in family.renamed:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _name_in_file(family: Family, name: str) -> str:
    """The other way: the name that transformers writes."""
    for old, new in family.renamed:
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def _find_fused(family: Family, name: str) -> Fused | None:
    return next((fused for fused in family.fused if name.endswith(f".{fused.parameter}")), None)


def _piece_names(name: str, fused: Fused, expert: int) -> list[str]:
    """Names in the file of one expert's pieces of the parameter `name`."""
    layer = name.removesuffix(f".{fused.parameter}")
    return [f"{layer}.{piece.format(expert)}" for piece in fused.pieces]


def _split_expert(name: str, fused: Fused, expert: int, matrix: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One expert's `[rows, columns]` as the pieces that its file has."""
    parts = matrix.chunk(len(fused.pieces), dim=0)
    return zip(_piece_names(name, fused, expert), parts, strict=True)
