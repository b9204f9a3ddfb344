"""Liger kernels (Hsu et al. 2024, arXiv:2410.10989): Triton versions of norms, rotary positions and gated MLPs.

They compute what the modules of transformers compute, in fewer passes over memory. The package binds them to the
modules of a model that exists; rotary positions, which are a function and no module, it replaces for every model of
the family in this process. Its fused cross entropy is left out: the loss has a head of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from torch import nn
from transformers import PreTrainedModel

from vlmforge.errors import ConfigError, Problem


def apply_liger(model: PreTrainedModel) -> None:
    """Give a model, on meta or not, Liger kernels, in place; before it is sharded.

    Raises:
        ConfigError: the package has no kernels for this model, which it would only log.
    """
    # The package is optional, and loads Triton.
    package = import_module("liger_kernel.transformers")
    with _classes_kept(type(model).__module__):
        package._apply_liger_kernel_to_instance(model=model, fused_linear_cross_entropy=False, cross_entropy=False)
    if not any(_patched(model)):
        problem = Problem(
            f"model.kernels = liger changed nothing in {type(model).__name__}",
            "liger-kernel has no kernels for this model in the installed version",
            "model.kernels=torch, or pip install --upgrade liger-kernel",
        )
        raise ConfigError(problem)


@contextmanager
def _classes_kept(module_name: str) -> Iterator[None]:
    """Undo what the package does to the classes of a transformers file.

    It puts its own in their place for models still to be built. The one that is scored after training is to be built
    as any user would, and transformers knows by these classes how the modules of this one are initialised.
    """
    names = vars(sys.modules[module_name])
    classes = {name: value for name, value in names.items() if isinstance(value, type)}
    yield
    names.update(classes)


def _patched(model: nn.Module) -> Iterator[str]:
    """Names of modules whose forward is bound to Liger's."""
    for name, module in model.named_modules():
        if getattr(module.forward, "__module__", "").startswith("liger_kernel."):
            yield name
