"""Where a model's files are: a local folder as it is, or a hub id brought into the local cache."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from vlmforge.errors import CheckpointError, Problem

SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


def fetch_folder(name: str, with_weights: bool = True) -> Path:
    """The local folder of a model, downloaded when `name` is a hub id.

    Only JSON, tokenizer and safetensors files are fetched: nothing that has to be unpickled.

    Raises:
        CheckpointError: there is no such folder or hub id, or it cannot be fetched.
    """
    path = Path(name)
    if path.is_dir():
        return path
    patterns = [*SMALL_FILES, "*.safetensors"] if with_weights else SMALL_FILES
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (
        RepositoryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        HfHubHTTPError,
    ) as error:
        raise CheckpointError(Problem(*_explain(name, error))) from error
    except OSError as error:
        raise CheckpointError(Problem(*_explain(name, error))) from error


def _explain(name: str, error: Exception) -> tuple[str, str, str]:
    """What, where and fix for a failed fetch; the classes are ordered from special to general."""
    where = f"hub id {name}"
    if isinstance(error, GatedRepoError):
        return (
            f"{name} is gated: its owner asks you to accept terms first",
            where,
            f"accept them at https://huggingface.co/{name}, then run `hf auth login`",
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name} is neither a folder nor a hub id that exists",
            where,
            "check the spelling, or `hf auth login` if it is private",
        )
    if isinstance(error, HFValidationError):
        return (
            f"{name} is neither a folder nor a hub id of the form owner/name",
            where,
            "give an existing folder or owner/name",
        )
    return (
        f"{name} is no local folder, is not in the local cache, and the hub cannot be reached",
        where,
        "download it where there is a network (`hf download " + name + "`) and set model.pretrained to the folder",
    )
