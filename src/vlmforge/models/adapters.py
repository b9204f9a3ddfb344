"""LoRA adapters, made by peft, put into the model before it is sharded.

Adapters added to a sharded model are plain tensors that FSDP does not know: every rank would train its own. So the
order is: meta model, adapters, shard, load.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmforge.checkpoint.store import read_json
from vlmforge.config.schema import AdapterConfig
from vlmforge.errors import CheckpointError, ConfigError, Problem, nearest, one_of
from vlmforge.models.family import Family
from vlmforge.models.shape import find_family
from vlmforge.parallel.shard import full_tensor
from vlmforge.parallel.styles import Style
from vlmforge.parallel.tensor import SlicedDropout, TensorRanks, is_cut, local_tensor, place, shard_module

PEFT_PREFIX = "base_model.model."


def apply_adapter(model: PreTrainedModel, adapter: AdapterConfig) -> None:
    """Put LoRA into the target modules of a meta model, in place; its own weights are meta too.

    Raises:
        ConfigError: `target_modules` names no module of the model.
    """
    family = find_family(model.config)
    linear = adaptable_modules(model, family)
    _check_targets(adapter, linear)
    with without_transformers_warnings():
        inject_adapter_in_model(lora_config(adapter, model, linear), model, low_cpu_mem_usage=True)
    for module in model.modules():
        if type(module) is LoraLinear:
            module.__class__ = _LeanLoraLinear


def adaptable_modules(model: PreTrainedModel, family: Family) -> list[str]:
    """Names of the linear modules that an adapter may be put into; the loss reads the output head as one matrix."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and name.rpartition(".")[2] not in family.not_adapted
    ]


@torch.library.custom_op("vlmforge::adapted_product", mutates_args=())
def _adapted_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """`x W^T + bias + s (x A^T) B^T`, of which the frozen `W` and `bias` get no gradient, and `s x A^T`.

    Each product is added to the one before it as it is made, in both directions: peft makes three passes over the
    layer's output, and autograd one more over the gradient of its input. It is one operation, so that
    `parallelism.recompute: selective` keeps its results and not what they were before the addition.

    Args:
        x: `[tokens, inputs]`.
        weight: `[outputs, inputs]`.
        bias: `[outputs]`.
        a: `[rank, inputs]`.
        b: `[outputs, rank]`.
        scale: alpha / rank, or what takes its place.
    """
    low = F.linear(x, a).mul_(scale)
    return F.linear(x, weight, bias).addmm_(low, b.T), low


@_adapted_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return x.new_empty((len(x), len(weight))), x.new_empty((len(x), len(a)))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, a, b, ctx.scale = inputs
    ctx.save_for_backward(x, weight, a, b, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, a, b, low = ctx.saved_tensors
    grad_low = (grad @ b).mul_(ctx.scale)
    grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
    return grad_x, None, None, grad_low.T @ x, grad.T @ low, None


_adapted_product.register_autograd(_differentiate, setup_context=_keep)


class _LeanLoraLinear(LoraLinear):
    """peft's LoRA layer, for its one adapter in training, with fewer passes over its output."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert not self.merged, "the base layer holds the adapter already"
        assert not self.disable_adapters, "the adapter is always in use"
        (name,) = self.active_adapters
        base, dropout, scale = self.base_layer, self.lora_dropout[name], self.scaling[name]
        a, b = self.lora_A[name], self.lora_B[name]
        # On one rank nobody else casts them (`weights_cast_by_layers`).
        a_weight, b_weight = (local_tensor(part.get_parameter("weight")).to(x.dtype) for part in (a, b))
        is_shared = any(is_cut(module) for module in (base, a, b))
        if isinstance(dropout, nn.Identity) and not is_shared:
            assert not base.weight.requires_grad, "what an adapter is beside is frozen"
            inputs = x.flatten(0, -2)
            product, _ = _adapted_product(inputs, base.weight, base.bias, a_weight, b_weight, scale)
            return product.view(*x.shape[:-1], -1)
        result = base(x, *args, **kwargs)
        low_rank = (a(dropout(x)) if is_shared else F.linear(dropout(x), a_weight)) * scale
        flat = torch.addmm(result.flatten(0, -2), low_rank.flatten(0, -2), b_weight.T)
        return flat.view_as(result)


def shard_adapted(module: LoraLinear, style: Style, ranks: TensorRanks) -> None:
    """Cut an adapted layer over the ranks of tp, in place; the adapter's cut follows from the layer's.

    Cut by outputs, every rank has A whole and its rows of B: what leaves A is used by each rank's part of B, so that
    its gradient is summed. Cut by inputs, every rank has its columns of A and B whole: what leaves A is summed, and
    dropout before it is of a part. So A and B are equal on every rank where they are whole, and so are their gradients.
    """
    if style == "replicated":
        return
    (name,) = module.active_adapters
    a, b = module.lora_A.get_submodule(name), module.lora_B.get_submodule(name)
    shard_module(module.get_base_layer(), style, ranks)
    if style == "colwise":
        _use_in_parts(a, ranks)
        place(b, {"weight": 0}, ranks.mesh)
    else:
        assert style == "rowwise", f"an adapter on a layer that is {style}"
        shard_module(a, "rowwise", ranks)
        dropout: Any = module.lora_dropout[name]
        if isinstance(dropout, nn.Dropout):
            module.lora_dropout[name] = SlicedDropout(dropout.p, ranks)


def _use_in_parts(a: nn.Module, ranks: TensorRanks) -> None:
    """Every rank has A whole and uses what leaves it for its part of B: the gradient is the sum of all parts'."""
    inner = a.forward
    vars(a)["forward"] = lambda inputs: ranks.share(inner(inputs))


def _check_targets(adapter: AdapterConfig, linear: Sequence[str]) -> None:
    """Every name must match: peft is content when one of several does."""
    targets = adapter.target_modules
    if targets == "all-linear":
        return
    known = sorted({name.rpartition(".")[2] for name in linear})
    problems = [
        Problem(
            f"stage.adapter.target_modules: {target} matches no linear module",
            "stage.adapter.target_modules",
            f"use all-linear, or {one_of(nearest(target, known, limit=1) or known)}; linear are {', '.join(known)}",
        )
        for target in _as_list(targets)
        if not any(name == target or name.endswith(f".{target}") for name in linear)
    ]
    if problems:
        raise ConfigError(problems)


def lora_config(adapter: AdapterConfig, model: PreTrainedModel, linear: Iterable[str]) -> LoraConfig:
    """The peft configuration of a recipe's adapter.

    Args:
        adapter: the recipe's.
        model: with the adapter or without.
        linear: names of the modules that may be adapted, or are.
    """
    named = adapter.target_modules
    # A list of names: a lone string other than all-linear would be a regular expression to peft.
    targets = named if isinstance(named, str) and named == "all-linear" else _as_list(named)
    if targets == "all-linear" and find_family(model.config).not_adapted:
        # peft would take in what the family leaves out, among it experts, as parameters of another rank.
        targets = _shortest_ends(linear, model)
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # pyright: ignore[reportArgumentType]  # a fraction works, whatever the annotation
        lora_dropout=adapter.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def _shortest_ends(names: Iterable[str], model: nn.Module) -> list[str]:
    """Ends of these modules' names that no other module's name has; a tower's patches are made by a `proj` too."""
    wanted = set(names)
    others = {end for name, _ in model.named_modules() if name not in wanted for end in _ends(name)}
    return sorted({next(end for end in _ends(name) if end not in others) for name in wanted})


def _ends(name: str) -> list[str]:
    """The last part of a name, the last two, and so on."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in reversed(range(len(parts)))]


def _as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def is_adapter(parameter_name: str) -> bool:
    """Whether a parameter of the model belongs to an adapter."""
    return ".lora_A." in parameter_name or ".lora_B." in parameter_name


def weights_cast_by_layers(model: nn.Module) -> list[nn.Parameter]:
    """Both matrices of every adapter whose layer computes in the type of its input."""
    layers = [module for module in model.modules() if isinstance(module, _LeanLoraLinear)]
    return [weight for layer in layers for part in (layer.lora_A, layer.lora_B) for weight in part.parameters()]


def init_adapter(module_name: str, module: nn.Module) -> bool:
    """Initialise one adapter matrix as peft does: A uniform in Kaiming's sense, B zero.

    Returns:
        Whether the module was part of an adapter.
    """
    if not isinstance(module, nn.Linear) or not is_adapter(f"{module_name}."):
        return False
    if ".lora_A." in f"{module_name}.":
        nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
    else:
        nn.init.zeros_(module.weight)
    return True


def peft_name(parameter_name: str) -> str:
    """The name of an adapter tensor in a PEFT folder: the adapter's own name is left out, a prefix put before."""
    return PEFT_PREFIX + parameter_name.replace(".default.", ".")


@dataclass(frozen=True)
class Update:
    """What an adapter adds to one weight: `scale * b @ a`, with `a` `[rank, in]` and `b` `[out, rank]`, sharded."""

    a: Tensor
    b: Tensor
    scale: float

    def apply(self, weight: Tensor) -> Tensor:
        """The full weight `[out, in]` with the update, summed in fp32; a collective of all ranks."""
        a, b = full_tensor(self.a).float(), full_tensor(self.b).float()
        return (weight.float() + self.scale * (b @ a)).to(weight.dtype)


def adapter_updates(model: nn.Module) -> dict[str, Update]:
    """The updates of all adapted weights, by the weight's name in the model without adapters."""
    updates: dict[str, Update] = {}
    for module_name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            (name,) = module.active_adapters
            a, b = (matrices.get_parameter(f"{name}.weight").detach() for matrices in (module.lora_A, module.lora_B))
            updates[f"{module_name}.weight"] = Update(a, b, module.scaling[name])
    return updates


def base_name(parameter_name: str) -> str:
    """The name that a parameter of the model with adapters has in the model without."""
    return parameter_name.replace(".base_layer.", ".")


def save_adapter_config(
    folder: Path, model: PreTrainedModel, adapter: AdapterConfig, base: str, revision: str | None
) -> None:
    """Write adapter_config.json, with the folder or hub id of the base model and the revision of the latter."""
    adapted = [name.partition(".lora_")[0] for name, _ in model.named_parameters() if is_adapter(name)]
    config = lora_config(adapter, model, adapted)
    config.base_model_name_or_path = base
    config.revision = revision
    config.inference_mode = True
    config.save_pretrained(str(folder))


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a PEFT folder.

    Raises:
        CheckpointError: the folder is none.
    """
    fix = "give a folder with adapter_config.json and adapter_model.safetensors"
    return read_json(folder / "adapter_config.json", "is no PEFT folder", fix)


def load_peft_model(model: PreTrainedModel, folder: Path) -> PeftModel:
    """A plain model with the adapter of a PEFT folder, as peft itself loads it.

    Raises:
        ValueError: as peft does, when the adapter does not fit.
        CheckpointError: its weights are in a file that would have to be unpickled.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        problem = Problem(
            f"{folder} has no adapter_model.safetensors, and other files are not opened: they can hold code",
            str(folder),
            "save the adapter as safetensors (peft's save_pretrained does)",
        )
        raise CheckpointError(problem)
    with without_transformers_warnings():
        return PeftModel.from_pretrained(model, str(folder))


@contextmanager
def without_transformers_warnings() -> Iterator[None]:
    """Peft 0.21 asks transformers 5.23 for a property by its old name; nobody here can do anything about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield
