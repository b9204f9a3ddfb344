"""The trained model as an ordinary Hugging Face folder, or as a PEFT folder for an adapter.

Tensors are gathered one file at a time, so that rank 0 never holds more than one file's worth.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from vlmforge.config.schema import AdapterConfig
from vlmforge.models.adapters import Update, base_name, is_adapter, peft_name, save_adapter_config
from vlmforge.models.family import Family
from vlmforge.models.images import save_processor
from vlmforge.models.layout import split_for_file
from vlmforge.models.shape import find_family
from vlmforge.parallel.mesh import barrier
from vlmforge.parallel.shard import full_tensor

if TYPE_CHECKING:
    from vlmforge.data.images import ImageRule

MAX_FILE_BYTES = 5 * 2**30


def export_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    stop_ids: Sequence[int],
    is_main: bool,
    updates: Mapping[str, Update] = MappingProxyType({}),
    image_rule: ImageRule | None = None,
) -> None:
    """Write the whole model, without adapters of its own, as a folder that plain transformers loads; a collective.

    Args:
        model: sharded or not.
        tokenizer: saved beside it, with its chat template.
        folder: replaced when everything is written.
        stop_ids: token ids that end a generated answer.
        is_main: whether this rank writes.
        updates: of weights by name, as `adapter_updates` gives them, to merge an adapter; none: the base model.
        image_rule: how the model sees pictures, saved beside it; None: it takes text only.
    """
    tensors = {base_name(name): p.detach() for name, p in model.named_parameters() if not is_adapter(name)}
    partial = _begin(folder, is_main)
    dtype = model.config.dtype
    assert not isinstance(dtype, str), "the type that the model was built in"
    _write(partial, "model", tensors, is_main, find_family(model.config), updates, dtype)
    if is_main:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(partial)
        _generation_config(model, stop_ids).save_pretrained(partial)
        save_processor(partial, model.config, tokenizer, image_rule)
    _finish(partial, folder, is_main)


def export_adapter(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    adapter: AdapterConfig,
    base: str,
    revision: str | None,
    is_main: bool,
    image_rule: ImageRule | None = None,
) -> None:
    """Write the adapter as a PEFT folder; a collective.

    Args:
        model: with the adapter in it.
        tokenizer: saved beside it.
        folder: replaced when everything is written.
        adapter: the recipe's.
        base: hub id or absolute folder of the model that the adapter belongs to.
        revision: of the hub id; None: its main branch, or a folder.
        is_main: whether this rank writes.
        image_rule: how the model sees pictures, saved beside it; None: it takes text only.
    """
    tensors = {peft_name(name): p.detach() for name, p in model.named_parameters() if is_adapter(name)}
    partial = _begin(folder, is_main)
    _write(partial, "adapter_model", tensors, is_main)
    if is_main:
        save_adapter_config(partial, model, adapter, base, revision)
        save_processor(partial, model.config, tokenizer, image_rule)
    _finish(partial, folder, is_main)


def _begin(folder: Path, is_main: bool) -> Path:
    partial = folder.with_name(f".{folder.name}.partial")
    if is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    return partial


def _finish(partial: Path, folder: Path, is_main: bool) -> None:
    if is_main:
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    barrier()


def _write(
    folder: Path,
    stem: str,
    tensors: Mapping[str, Tensor],
    is_main: bool,
    family: Family | None = None,
    updates: Mapping[str, Update] = MappingProxyType({}),
    dtype: torch.dtype | None = None,
) -> None:
    """Gather and write file after file, under the names that a family's files have, in this type or each in its own."""
    files = _split(tensors)
    total_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    weight_map: dict[str, str] = {}
    for index, names in enumerate(files, start=1):
        name = f"{stem}.safetensors" if len(files) == 1 else f"{stem}-{index:05d}-of-{len(files):05d}.safetensors"
        gathered: dict[str, Tensor] = {}
        for key in names:
            full = full_tensor(tensors[key])
            full = full if dtype is None else full.to(dtype)
            if key in updates:
                full = updates[key].apply(full)
            if is_main:
                parts = split_for_file(family, key, full) if family is not None else [(key, full)]
                # Each in memory of its own: safetensors refuses views of one tensor.
                gathered |= {part_name: part.cpu().clone().contiguous() for part_name, part in parts}
        weight_map |= dict.fromkeys(gathered, name)
        if is_main:
            save_file(gathered, folder / name, metadata={"format": "pt"})
    if is_main and len(files) > 1:
        index_file = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index_file, indent=2))


def _split(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Names in order, cut into files of at most `MAX_FILE_BYTES` (a larger tensor has its own)."""
    files: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        num_bytes = tensor.numel() * tensor.element_size()
        if files[-1] and size + num_bytes > MAX_FILE_BYTES:
            files.append([])
            size = 0
        files[-1].append(name)
        size += num_bytes
    return files


def _generation_config(model: PreTrainedModel, stop_ids: Sequence[int]) -> GenerationConfig:
    text = model.config.get_text_config()
    return GenerationConfig(
        bos_token_id=getattr(text, "bos_token_id", None),
        eos_token_id=list(stop_ids),
        pad_token_id=getattr(text, "pad_token_id", None),
        do_sample=False,
    )
