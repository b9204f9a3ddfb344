"""Models of a hub, and what is said where it gives none; the hub is a server of the test's own."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HTTPError
from tests.support.hub import COMMIT, Repo, serve_hub
from tests.support.runs import LORA, ROOT, environment, write_recipe
from tests.support.tiny import make_base

from vlmforge.errors import CheckpointError
from vlmforge.models import hub

RUN = ["train", "recipe=short.yaml", "model.init=pretrained", "~model.tokenizer", "stage.max_steps=3"]
COMMANDS = {
    "gated": [*RUN, "model.pretrained=acme/gated"],
    "gated_listed": [*RUN, "model.pretrained=acme/gated-listed"],
    "missing": ["generate", "checkpoint=acme/mising", "prompt=Hello"],
    "forbidden": [*RUN, "model.pretrained=acme/forbidden"],
    "down": [*RUN, "model.pretrained=acme/down"],
    "revision": [*RUN, "model.pretrained=acme/good", "model.revision=v2"],
    "astray": ["generate", "checkpoint=astray", "prompt=Hello"],
    "pickled": ["generate", "checkpoint=acme/pickled", "prompt=Hello"],
    "tokenizer": [*RUN, "model.pretrained=acme/good", "model.tokenizer=acme/gated"],
    "trained": [*RUN, *LORA, "model.pretrained=acme/good", "model.revision=v1", "run.name=hub"],
    "answered": ["generate", "checkpoint=runs/hub", "prompt=Hello", "stage.generation.max_new_tokens=2"],
}


def start(folder: Path, endpoint: str, commands: list[list[str]], **variables: str) -> subprocess.Popen[str]:
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.models.worker_hub", json.dumps(commands)],
        cwd=folder,
        env={**environment(), **own, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("hub")
    write_recipe(folder)
    files = {path.name: path.read_bytes() for path in make_base(folder / "base", "qwen2").iterdir()}
    unsafe = {name: content for name, content in files.items() if not name.endswith(".safetensors")}
    repos = {
        "acme/good": Repo(files),
        "acme/gated": Repo(files, refuses=(401, "GatedRepo")),
        "acme/gated-listed": Repo(files, refuses=(403, "GatedRepo"), lists=True),
        "acme/forbidden": Repo(files, refuses=(403, "")),
        "acme/down": Repo(files, refuses=(503, "")),
        "acme/pickled": Repo({**unsafe, "pytorch_model.bin": b"cos\nsystem\n"}),
    }
    adapter = {"base_model_name_or_path": "acme/good", "revision": "v9", "peft_type": "LORA"}
    (folder / "astray").mkdir()
    (folder / "astray/adapter_config.json").write_text(json.dumps(adapter))
    (folder / "astray/adapter_model.safetensors").touch()
    with serve_hub(repos) as endpoint:
        found = finish(start(folder, endpoint, list(COMMANDS.values())))
    found.append({"folder": folder, "endpoint": endpoint})
    return dict(zip([*COMMANDS, "place"], found, strict=True))


# command, what it says, where, what helps
REFUSALS = [
    ("gated", "acme/gated is gated", "model.pretrained = acme/gated", "set HF_TOKEN, or run `hf auth login`"),
    ("gated_listed", "asks you to accept a licence", "model.pretrained", "/acme/gated-listed, then set HF_TOKEN"),
    ("missing", "acme/mising is no folder here, and no public model", "checkpoint = acme/mising", "check the spelling"),
    ("forbidden", "answers with 403 Forbidden", "model.pretrained = acme/forbidden", "a token that may read it"),
    ("down", "answers with 503", "model.pretrained = acme/down", "hf download acme/down --local-dir FOLDER"),
    ("revision", "acme/good has no revision v2", "model.revision = v2", "~model.revision"),
    ("astray", "acme/good has no revision v9", "adapter_config.json = acme/good, and revision = v9 there", "null for"),
    ("pickled", "acme/pickled has no .safetensors file", "checkpoint = acme/pickled", "save_pretrained(FOLDER)"),
    ("tokenizer", "acme/gated is gated", "model.tokenizer = acme/gated", "HF_TOKEN"),
]


@pytest.mark.parametrize(("command", "what", "where", "fix"), REFUSALS)
def test_a_hub_that_gives_no_model_is_explained(
    command: str, what: str, where: str, fix: str, said: dict[str, dict[str, object]]
) -> None:
    report = str(said[command]["errors"])
    assert said[command]["code"] == 4, report
    assert report.count("error:") == 1
    assert "Traceback" not in report
    lines = {line.partition(":")[0]: line for line in report.splitlines() if ": " in line}
    assert what in lines["error"]
    assert where in lines["where"]
    assert fix in lines["fix"]


def test_a_revision_is_fetched_and_an_adapter_remembers_it(said: dict[str, dict[str, object]]) -> None:
    assert said["trained"]["code"] == 0, said["trained"]["errors"]
    folder = Path(str(said["place"]["folder"]))
    snapshots = folder / "hf/hub/models--acme--good"
    assert (snapshots / "refs/v1").read_text() == COMMIT
    adapter = json.loads((folder / "runs/hub/export/adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("acme/good", "v1")
    assert said["answered"]["code"] == 0, said["answered"]["errors"]


def test_without_a_network_the_way_around_it_is_told(said: dict[str, dict[str, object]]) -> None:
    """The hub is gone by now: its server was stopped when the commands were done."""
    folder, endpoint = Path(str(said["place"]["folder"])), str(said["place"]["endpoint"])
    words = [*RUN, "model.pretrained=acme/other", "model.revision=v1"]
    online = start(folder, endpoint, [words])
    (offline, cached) = finish(start(folder, endpoint, [words, COMMANDS["answered"]], HF_HUB_OFFLINE="1"))
    (reached,) = finish(online)
    assert (reached["code"], offline["code"]) == (4, 4)
    assert "cannot be reached (ConnectError)" in str(reached["errors"])
    assert "HF_HUB_OFFLINE forbids to fetch it" in str(offline["errors"])
    for report in (str(reached["errors"]), str(offline["errors"])):
        assert "`hf download acme/other --revision v1 --local-dir FOLDER`" in report
        assert "model.pretrained=FOLDER" in report
    assert cached["code"] == 0, cached["errors"]


@pytest.mark.parametrize(
    ("number", "what"),
    [(errno.ENOSPC, "the disk is full: acme/large does not fit into the cache"), (errno.EACCES, "Permission denied")],
)
def test_a_cache_that_takes_no_more_is_named(number: int, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError(number, "Permission denied" if number == errno.EACCES else "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError) as caught:
        hub.fetch_folder("acme/large")
    assert what in str(caught.value)
    assert constants.HF_HUB_CACHE in str(caught.value)
    assert "HF_HOME" in str(caught.value)


def test_a_connection_that_breaks_in_the_middle_of_a_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise HTTPError("peer closed connection")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"cannot be reached \(HTTPError\)") as caught:
        hub.fetch_folder("acme/large", key="model.tokenizer")
    assert "set model.tokenizer=FOLDER" in str(caught.value)


def test_a_token_changes_what_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise GatedRepoError("gated", response=Mock(headers={}))

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    monkeypatch.setattr(hub, "get_token", lambda: "hf_secret")
    with pytest.raises(CheckpointError) as caught:
        hub.fetch_folder("acme/gated")
    assert "the account of your token has no access to it yet" in str(caught.value)
    assert "hf_secret" not in str(caught.value)
