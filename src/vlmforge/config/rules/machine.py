"""Rules that the machine that trains must keep; a recipe may well be validated on another one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from vlmforge.config.rules.finding import Finding, Rule, Subject


def check_liger(subject: Subject) -> Iterator[Finding]:
    """Liger kernels need a GPU and their package."""
    config = subject.config
    if config.model.kernels != "liger":
        return
    if config.launch.device == "auto" and subject.facts.num_gpus == 0:
        yield Finding(
            ("model.kernels",),
            "model.kernels = liger runs on CUDA only, and this machine shows no GPU",
            "model.kernels=torch, or launch.device=cuda if there is one",
        )
    if find_spec("liger_kernel") is None:
        yield Finding(
            ("model.kernels",),
            "model.kernels = liger needs the package liger-kernel, which is not installed",
            "pip install 'vlmforge[liger]', or model.kernels=torch",
        )


RULES: tuple[Rule, ...] = (check_liger,)
