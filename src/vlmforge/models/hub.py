"""Where a model's files are: a local folder as it is, or a hub id brought into the local cache."""

from __future__ import annotations

import errno
from pathlib import Path

from huggingface_hub import constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of whichever HTTP library this version of the hub uses
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vlmforge.errors import CheckpointError, Problem, nearest_folder

SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]

LOG_IN = "set HF_TOKEN, or run `hf auth login`"


def fetch_folder(
    name: str, with_weights: bool = True, revision: str | None = None, key: str = "model.pretrained"
) -> Path:
    """The local folder of a model, downloaded when `name` is a hub id.

    Only JSON, tokenizer and safetensors files are fetched: nothing that has to be unpickled.

    Args:
        name: folder or hub id.
        with_weights: whether the weights are wanted too.
        revision: commit, tag or branch of a hub id; None: its main branch.
        key: what named it, for messages.

    Raises:
        CheckpointError: there is no such folder or hub id, it cannot be fetched, or it has no safetensors.
    """
    path = Path(name)
    if not path.is_dir():
        patterns = [*SMALL_FILES, "*.safetensors"] if with_weights else SMALL_FILES
        try:
            path = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        except (HFValidationError, HTTPError, OSError) as error:
            # What the hub answers is an OSError too; a connection that breaks in the middle of a file is not.
            raise CheckpointError(Problem(*_explain(name, revision, key, error))) from error
    if with_weights and not any(path.glob("*.safetensors")):
        problem = Problem(
            f"{name} has no .safetensors file; weights in other files (.bin, .pt, .gguf) are not opened: unpickling "
            "them can run code",
            f"{key} = {name}",
            "take a revision or a model with safetensors, or save it anew with transformers: "
            "AutoModelForCausalLM.from_pretrained(NAME).save_pretrained(FOLDER)",
        )
        raise CheckpointError(problem)
    return path


def _explain(name: str, revision: str | None, key: str, error: Exception) -> tuple[str, str, str]:
    """What, where and fix for a failed fetch; the classes are ordered from special to general."""
    where = f"{key} = {name}"
    if isinstance(error, HFValidationError):
        return (
            f"{name} is neither a folder nor a hub id of the form owner/name",
            where,
            "give an existing folder or owner/name",
        )
    if isinstance(error, GatedRepoError):
        return _explain_gated(name, where)
    if isinstance(error, RevisionNotFoundError):
        return _explain_revision(name, revision, key)
    if isinstance(error, RepositoryNotFoundError):
        return _explain_not_found(name, where)
    if isinstance(error, OSError) and error.errno is not None:
        return _explain_disk(name, key, error)
    return _explain_unreachable(name, revision, key, error)


def _explain_revision(name: str, revision: str | None, key: str) -> tuple[str, str, str]:
    other = f"name a commit, tag or branch of {constants.ENDPOINT}/{name}/commits/main"
    is_recipe = key == "model.pretrained"
    where = f"model.revision = {revision}" if is_recipe else f"{key} = {name}, and revision = {revision} there"
    fix = (
        f"{other}, or ~model.revision for its main branch"
        if is_recipe
        else f"{other} there, or null for its main branch"
    )
    return f"{name} has no revision {revision}", where, fix


def _explain_gated(name: str, where: str) -> tuple[str, str, str]:
    page = f"{constants.ENDPOINT}/{name}"
    if get_token() is None:
        return (
            f"{name} is gated: its owner asks you to accept a licence first, and no token says who you are",
            where,
            f"accept it at {page}, then {LOG_IN} with a token of that account",
        )
    return (
        f"{name} is gated, and the account of your token has no access to it yet",
        where,
        f"accept its licence at {page} (some owners answer by hand), or {LOG_IN} with a token of an account that has",
    )


def _explain_not_found(name: str, where: str) -> tuple[str, str, str]:
    if get_token() is None:
        return (
            f"{name} is no folder here, and no public model of the hub; without a token private ones look the same",
            where,
            f"{_meant(name)}check the spelling at {constants.ENDPOINT}/{name}; if it is private, {LOG_IN}",
        )
    return (
        f"{name} is no folder here, and no model of the hub that your token may read",
        where,
        f"{_meant(name)}check the spelling at {constants.ENDPOINT}/{name}; if it is private, {LOG_IN} with a token "
        "that may read it",
    )


def _meant(name: str) -> str:
    """A path that is mistyped looks like a hub id."""
    near = nearest_folder(name)
    return f"if {near}, a folder that is here, was meant: that name; else " if near else ""


def _explain_disk(name: str, key: str, error: OSError) -> tuple[str, str, str]:
    where, cache = f"{key} = {name}", constants.HF_HUB_CACHE
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full: {name} does not fit into the cache {cache}",
            where,
            "make room (`hf cache ls`, `hf cache rm`), or set HF_HOME to a folder on a larger disk; what was fetched "
            "is kept",
        )
    return (
        f"{name} cannot be brought into the cache {cache}: {error.strerror or error}",
        where,
        f"set HF_HOME to a folder that can be written, or {key} to a folder that holds the model",
    )


def _explain_unreachable(name: str, revision: str | None, key: str, error: Exception) -> tuple[str, str, str]:
    """No network, offline on purpose, or a hub that answers with another error."""
    where = f"{key} = {name}"
    cause = error.__cause__ if error.__cause__ is not None else error
    at = f" --revision {revision}" if revision else ""
    download = f"`hf download {name}{at} --local-dir FOLDER`"
    elsewhere = f"{_meant(name)}where there is a network: {download}; bring FOLDER here and set {key}=FOLDER"
    if constants.HF_HUB_OFFLINE or isinstance(cause, OfflineModeIsEnabled):
        return (
            f"{name} is no folder and is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to "
            "fetch it",
            where,
            f"HF_HUB_OFFLINE=0, or {elsewhere}",
        )
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        token = f"{LOG_IN} with a token that may read it" if status in (401, 403) else "try again later"
        return (
            f"{name} is no folder and is not in the cache, and {constants.ENDPOINT} answers with {status} "
            f"{cause.response.reason_phrase}",
            where,
            f"{token}; or {elsewhere}",
        )
    return (
        f"{name} is no folder and is not in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} cannot be "
        f"reached ({type(cause).__name__})",
        where,
        elsewhere,
    )
