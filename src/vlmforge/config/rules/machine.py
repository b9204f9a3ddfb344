"""Rules that the machine that trains must keep; a recipe may well be validated on another one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

from vlmforge.config.derived import derive_world_size
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


def check_offload(subject: Subject) -> Iterator[Finding]:
    """Without a GPU there is nothing to take weights away from."""
    config = subject.config
    if config.parallelism.cpu_offload and config.launch.device == "auto" and subject.facts.num_gpus == 0:
        yield Finding(
            ("parallelism.cpu_offload",),
            "parallelism.cpu_offload = true has no effect here: this machine shows no GPU, and all is in CPU memory",
            "parallelism.cpu_offload=false, or launch.device=cuda if there is one",
        )


def check_compiler(subject: Subject) -> Iterator[Finding]:
    """torch.compile writes C++ for a CPU, and for a GPU Triton, which builds its launcher with a C compiler."""
    config = subject.config
    if not config.parallelism.compile:
        return
    is_gpu = config.launch.device == "cuda" or (config.launch.device == "auto" and subject.facts.num_gpus != 0)
    variable, names = ("CC", ("gcc", "clang")) if is_gpu else ("CXX", ("g++", "clang++"))
    asked = os.environ.get(variable)
    if not any(shutil.which(name) for name in ((asked,) if asked else names)):
        looked = f"{variable} = {asked}" if asked else " and ".join(names)
        remedy = f"unset {variable}" if asked else f"install {names[0]} (Debian: apt-get install {names[0]})"
        yield Finding(
            ("parallelism.compile",),
            f"parallelism.compile = true needs a compiler, and this machine lacks {looked}",
            f"{remedy}, or parallelism.compile=false",
        )
    if is_gpu and find_spec("triton") is None:
        yield Finding(
            ("parallelism.compile",),
            "parallelism.compile = true needs the package triton on a GPU, which is not installed",
            "pip install triton, or parallelism.compile=false",
        )


def check_nodes(subject: Subject) -> Iterator[Finding]:
    """This command starts ranks on this machine; the others must be started by somebody else."""
    num_nodes = subject.config.launch.num_nodes
    if num_nodes is not None and num_nodes > 1 and subject.facts.world_size is None:
        yield Finding(
            ("launch.num_nodes",),
            f"launch.num_nodes = {num_nodes} with launch.kind = local: this command starts ranks on one machine",
            "launch=slurm or launch=kubernetes, or launch=print for the command to type on every machine",
        )


def check_gpus(subject: Subject) -> Iterator[Finding]:
    """Every rank that this command starts here has a GPU of its own, or they train on the CPU."""
    config, num_gpus = subject.config, subject.facts.num_gpus
    if config.launch.device == "cpu" or num_gpus == 0 or config.parallelism.dp_shard == 0:
        return
    ranks = derive_world_size(config, subject.facts.world_size, num_gpus)
    if subject.facts.world_size is None and ranks > num_gpus:
        yield Finding(
            ("parallelism.dp_shard", "launch.processes_per_node"),
            f"the mesh has {ranks} ranks, and this machine {num_gpus} GPU{'s' if num_gpus > 1 else ''}: each needs one",
            "launch.device=cpu to try it on the CPU, a smaller mesh, or launch=slurm for several machines",
        )


RULES: tuple[Rule, ...] = (check_liger, check_offload, check_compiler, check_nodes, check_gpus)
