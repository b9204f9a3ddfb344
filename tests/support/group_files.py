"""What a model's group file says, with the parts that it shares with others."""

from __future__ import annotations

from typing import Any

import yaml

from tests.support.tiny import merge
from vlmforge.config.recipes import installed_folder


def read_model_file(name: str) -> dict[str, Any]:
    """As Hydra merges it."""
    folder = installed_folder("configs") / "model"
    own = yaml.safe_load((folder / f"{name}.yaml").read_text())
    files = [entry.removesuffix("@_here_") for entry in own.pop("defaults", []) if entry != "_self_"]
    stated: dict[str, Any] = {}
    for file in files:
        stated = merge(stated, yaml.safe_load((folder / f"{file}.yaml").read_text()))
    return merge(stated, own)
