"""What a machine lacks for a recipe is told before anything starts; another machine may well have it."""

from __future__ import annotations

import pytest

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.errors import ConfigError


def check(*words: str, runs_here: bool = True) -> str:
    """What is wrong, or nothing."""
    request = Request("train", {"recipe": ["dates"], "check_data": ["false"]}, words)
    try:
        load_config(request, environ={}, runs_here=runs_here)
    except ConfigError as error:
        return "\n".join(problem.what for problem in error.problems)
    return ""


def test_a_machine_without_a_compiler_cannot_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("parallelism.compile=true", "launch.device=cpu")
    assert check(*words) == ""
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "needs a compiler, and this machine lacks CXX = no-such-compiler" in check(*words)
    assert check(*words, runs_here=False) == ""


def test_a_machine_without_a_gpu_has_nothing_to_offload() -> None:
    assert "this machine shows no GPU" in check("parallelism.cpu_offload=true")
    assert check("parallelism.cpu_offload=true", runs_here=False) == ""
