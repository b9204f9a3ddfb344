"""From a recipe to a model: first shapes without memory, then, once it is sharded, each rank's own weights.

The order is fixed and matters: `build_on_meta` (shapes, adapters, what is trained), then the caller shards, then
`materialise` gives every rank memory for its shards and fills it, from files or from a seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from vlmforge.config.schema import Config
from vlmforge.errors import CheckpointError, ConfigError, Problem
from vlmforge.models import FAMILIES
from vlmforge.models.adapters import apply_adapter, base_name, init_adapter, is_adapter, peft_name, read_adapter_config
from vlmforge.models.attention import VARLEN, WHOLE
from vlmforge.models.embed_cache import check_embed_cache
from vlmforge.models.family import Family
from vlmforge.models.group_lr import check_group_lr
from vlmforge.models.hub import fetch_folder
from vlmforge.models.layout import as_in_file, match_files
from vlmforge.models.shape import build_hf_config, find_family
from vlmforge.models.sharding import check_sharding
from vlmforge.models.stitched_model import StitchedModel as StitchedModel  # makes AutoModel know it
from vlmforge.parallel.shard import copy_full

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TensorReader(Protocol):
    """Reads named tensors of a folder of safetensors into existing ones, sharded or not; see `checkpoint`."""

    def shapes(self, folder: Path) -> Mapping[str, Sequence[int]]:
        """Full shapes of all tensors in the folder by their names."""
        ...

    def read(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Fill `tensors`, each rank reading its own part only."""
        ...

    def is_all(self, folder: Path, dtype: torch.dtype) -> bool:
        """Whether every tensor in the folder is of this type."""
        ...


def build_on_meta(config: Config, is_offline: bool = False) -> PreTrainedModel:
    """The model of a recipe, with adapters and with `requires_grad` set, as shapes without memory.

    Raises:
        ConfigError: adapters match nothing, or nothing would be trained.
    """
    shape = build_hf_config(config.model, is_offline)
    shape.dtype = TORCH_DTYPES[config.model.dtype]
    with torch.device("meta"):
        model = auto_class(shape).from_config(
            shape,
            attn_implementation=_attention(find_family(shape), config.model.attention),
            dtype=TORCH_DTYPES[config.model.dtype],
        )
    model.tie_weights()
    if config.stage.adapter is not None:
        apply_adapter(model, config.stage.adapter)
        cast_model(model, TORCH_DTYPES[config.model.dtype])
    _set_trainable(model, config)
    return model


def auto_class(shape: PretrainedConfig) -> Any:
    """The transformers class that builds a model of this config, of a family or not."""
    sees = any(family.model_type == shape.model_type and family.vision for family in FAMILIES.values())
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def _attention(family: Family, attention: str) -> str | dict[str, str]:
    """The attention of the model, and of a tower, which sees each picture whole whatever the text's samples are."""
    text = VARLEN if attention == "varlen" else attention
    if family.vision is None:
        return text
    tower = WHOLE if attention == "varlen" else attention
    return {"": text, **{section: text if section == family.text_section else tower for section in family.sections}}


def check_on_meta(config: Config) -> list[Problem]:
    """Gate 3: the model can be built, its layers are where the family says, something is trained."""
    try:
        model = build_on_meta(config, is_offline=True)
        find_layers(model)
        if config.parallelism.tp > 1 or config.parallelism.ep > 1:
            # The sizes belong to gate 1, which names the keys; here the table's names are matched.
            return check_sharding(model, tp=1)
    except (ConfigError, CheckpointError) as error:
        return list(error.problems)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # transformers' own validation of a config, in its words.
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "correct model.config; `vlmforge show` says where each of its fields was set"
        return [Problem(f"transformers cannot build this model: {message}", "model.config", fix)]
    return []


def find_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks, those of a tower first, which are sharded and recomputed one by one.

    Raises:
        ConfigError: the family's path to them matches nothing, so sharding would silently be of another kind.
    """
    family = find_family(model.config)
    paths = [family.layers] if family.vision is None else [family.vision.layers, family.layers]
    return [layer for path in paths for layer in _children(model, path, family)]


def find_text_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Those of the language model alone, which are compiled: a tower does something else for every number of pictures.

    Raises:
        ConfigError: as `find_layers`.
    """
    family = find_family(model.config)
    return _children(model, family.layers, family)


def find_seeing(model: PreTrainedModel) -> list[nn.Module]:
    """What tp does not cut: the blocks of a tower, the tower and the projector, the innermost first; none of text."""
    family = find_family(model.config)
    if family.vision is None:
        return []
    paths = [path for group in ("projector", "vision_tower") for path in _paths(family, group)]
    tops = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    return [*_children(model, family.vision.layers, family), *(model.get_submodule(path) for path in tops)]


def _paths(family: Family, group: str) -> tuple[str, ...]:
    """The modules of a group."""
    named = family.groups.get(group, ())
    return (named,) if isinstance(named, str) else named


def find_frozen_towers(model: PreTrainedModel) -> list[nn.Module]:
    """The vision tower, where nothing in it is trained, adapters included."""
    family = find_family(model.config)
    towers = [model.get_submodule(path) for path in _paths(family, "vision_tower")] if family.vision is not None else []
    return [tower for tower in towers if not any(parameter.requires_grad for parameter in tower.parameters())]


def _children(model: PreTrainedModel, path: str, family: Family) -> list[nn.Module]:
    try:
        layers = list(model.get_submodule(path).children())
    except AttributeError:
        layers = []
    if not layers:
        problem = Problem(
            f"family {family.name} has no layers at {path} in {type(model).__name__}",
            f"src/vlmforge/models/{family.name}.py",
            "correct the family's `decoder`",
        )
        raise ConfigError(problem)
    return layers


def _set_trainable(model: PreTrainedModel, config: Config) -> None:
    family = find_family(model.config)
    stage = config.stage
    groups = stage.trainable
    if groups is None:
        groups = tuple(family.groups) if stage.adapter is None else ()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name) or family.group_of(name) in groups)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        problem = Problem(
            f"stage.trainable = {list(groups)} and no adapter: nothing would be trained",
            "recipe",
            f"name groups of {', '.join(family.groups)}, or set stage.adapter",
        )
        raise ConfigError(problem)
    check_group_lr(model, family, config.stage.optimizer.group_lr)
    check_embed_cache(find_frozen_towers(model), config)


def keep_frozen_as_stored(model: PreTrainedModel, config: Config, reader: TensorReader) -> None:
    """Leave frozen weights in the type that layers compute in, if the files hold all in it already, on meta.

    They would be cast to it in every pass, without a bit's difference: only what is trained needs the precision of
    `model.dtype`, and frozen weights take half the memory of float32 masters.
    """
    dtype, folder = TORCH_DTYPES[config.parallelism.param_dtype], config.model.pretrained
    if config.model.init != "pretrained" or folder is None or dtype == TORCH_DTYPES[config.model.dtype]:
        return
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    if frozen and reader.is_all(fetch_folder(folder, revision=config.model.revision), dtype):
        for parameter in frozen:
            parameter.data = parameter.data.to(dtype)


def materialise(model: PreTrainedModel, config: Config, device: torch.device, reader: TensorReader) -> None:
    """Give a meta model, sharded or not, its memory on `device` and its first weights, in place.

    Offloaded weights have theirs on the CPU; buffers such as rotary frequencies are always on the device.

    Raises:
        CheckpointError: the weights do not fit the model.
    """
    model.to_empty(device="cpu" if config.parallelism.cpu_offload else device)
    for module in model.modules():
        module._buffers.update({key: None if b is None else b.to(device) for key, b in module._buffers.items()})
    # to_empty makes every entry anew, which would train two matrices where the model has one.
    model.tie_weights()
    from_files = config.model.init == "pretrained" and config.model.pretrained is not None
    initialise(model, config.run.seed, only_missing=from_files)
    if from_files:
        assert config.model.pretrained is not None
        load_weights(model, fetch_folder(config.model.pretrained, revision=config.model.revision), reader)
    if config.stage.adapter is not None and config.stage.adapter.path is not None:
        load_adapter(model, Path(config.stage.adapter.path), config, reader)


def initialise(model: PreTrainedModel, seed: int, only_missing: bool = False) -> None:
    """Draw weights by transformers' and peft's own rules, the same on every mesh, in place.

    Each module is drawn in full on the CPU from a seed made of its name, then every rank keeps its shard: random
    numbers drawn for a shard would depend on the mesh. At most one module's weights exist in full at a time.

    Args:
        model: on its device; its values are undefined.
        seed: of the run.
        only_missing: draw only what a weight file does not hold: adapters and buffers.
    """
    owners = _owners(model)
    for name, module in model.named_modules():
        is_drawn = not only_missing or is_adapter(f"{name}.")
        own = dict(module.named_parameters(recurse=False)) if is_drawn else {}
        own |= dict(module.named_buffers(recurse=False))
        if own:
            fresh = _draw_module(owners[name], name, module, seed, "cpu" if is_drawn else "meta")
            for key, tensor in own.items():
                copy_full(tensor, getattr(fresh, key))


def _owners(model: PreTrainedModel) -> dict[str, PreTrainedModel]:
    """For each module the innermost model around it, whose rules initialise it: a tower has its own."""
    owners: dict[str, PreTrainedModel] = {}
    for name, module in model.named_modules():
        above = owners.get(name.rpartition(".")[0], model)
        owners[name] = module if isinstance(module, PreTrainedModel) else above
    return owners


def _draw_module(model: PreTrainedModel, name: str, module: nn.Module, seed: int, device: str) -> nn.Module:
    """A copy of one module without its children, in full, with fresh weights on `device` and buffers on the CPU."""
    # Not `copy.copy`, for which a sharded module builds itself anew.
    fresh = object.__new__(type(module))
    fresh.__dict__.update(module.__dict__)
    fresh._modules = {}
    fresh._parameters = {
        key: None if value is None else nn.Parameter(torch.zeros(value.shape, dtype=value.dtype, device=device))
        for key, value in module._parameters.items()
    }
    fresh._buffers = {
        key: None if value is None else torch.zeros(value.shape, dtype=value.dtype)
        for key, value in module._buffers.items()
    }
    digest = hashlib.sha256(f"{seed}/{base_name(f'{name}.')}".encode()).digest()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        if not init_adapter(name, fresh):
            model._init_weights(fresh)
    return fresh


def load_weights(model: PreTrainedModel, folder: Path, reader: TensorReader) -> None:
    """Fill every parameter from a Hugging Face folder; each rank reads its own shards.

    Raises:
        CheckpointError: tensors are missing, or left over, or of another shape.
    """
    parameters = {base_name(name): p.detach() for name, p in model.named_parameters() if not is_adapter(name)}
    # A tied head may be stored under both its names.
    aliases = {base_name(name) for name, _ in model.named_parameters(remove_duplicate=False)}
    family, shapes = find_family(model.config), reader.shapes(folder)
    files = match_files(family, parameters, aliases, shapes.keys())
    if files.missing or files.left_over:
        raise CheckpointError(Problem(*_explain_mismatch(folder, files.missing, files.left_over)))
    reader.read(
        folder, {name: as_in_file(family, name, tensor, shapes[name]) for name, tensor in files.tensors.items()}
    )


def load_adapter(model: PreTrainedModel, folder: Path, config: Config, reader: TensorReader) -> None:
    """Fill the adapter from a PEFT folder of the same rank and targets.

    Raises:
        CheckpointError: the folder holds another adapter.
    """
    stored = read_adapter_config(folder)
    adapter = config.stage.adapter
    assert adapter is not None
    if (stored.get("r"), stored.get("lora_alpha")) != (adapter.rank, adapter.alpha):
        problem = Problem(
            f"stage.adapter.rank, alpha = {adapter.rank}, {adapter.alpha} differ from the adapter's own",
            str(folder / "adapter_config.json"),
            f"set stage.adapter.rank={stored.get('r')} stage.adapter.alpha={stored.get('lora_alpha')}",
        )
        raise CheckpointError(problem)
    tensors = {peft_name(name): p.detach() for name, p in model.named_parameters() if is_adapter(name)}
    available = reader.shapes(folder).keys()
    missing, left_over = sorted(tensors.keys() - available), sorted(available - tensors.keys())
    if missing or left_over:
        raise CheckpointError(Problem(*_explain_mismatch(folder, missing, left_over)))
    reader.read(folder, tensors)


def _explain_mismatch(folder: Path, missing: list[str], left_over: list[str]) -> tuple[str, str, str]:
    parts = []
    for count, names in (("missing", missing), ("left over", left_over)):
        if names:
            parts.append(f"{len(names)} tensors {count}, for example {names[0]}")
    return (
        f"the weights in {folder} are not those of this model: {'; '.join(parts)}",
        str(folder),
        "give the folder's own config (model.config, stage.adapter), or the folder that belongs to this recipe",
    )


def cast_model(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of an unsharded model in place; buffers such as rotary frequencies keep their type."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """All parameters and those that are trained; a tied matrix counts once."""
    parameters: list[Any] = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def count_flops_per_token(model: PreTrainedModel) -> int:
    """Operations of a forward and backward pass over a token: 6 for each weight, 4 for each that is frozen.

    Experts are the parameters of three dims, one of them the expert: those count that a token goes through. What
    pictures go through, tower and projector, is left out: how many of them a token stands for differs.
    """
    family = find_family(model.config)
    shape: Any = model.config.get_text_config()
    flops = 0
    for name, parameter in model.named_parameters():
        if family.group_of(name) != "language_model":
            continue
        weights = parameter.numel()
        if parameter.ndim == 3:
            weights = weights // parameter.shape[0] * shape.num_experts_per_tok
        flops += (6 if parameter.requires_grad else 4) * weights
    return flops
