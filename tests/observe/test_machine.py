"""Memory, speed and manifest: what is read from the machine."""

import datetime
import json
import subprocess

import pytest
import torch

import vlmforge
from vlmforge.observe import manifest
from vlmforge.observe.manifest import build_manifest, read_git_state
from vlmforge.observe.memory import GIB_BYTES, peak_memory_gib, peak_resident_bytes
from vlmforge.observe.speed import measure_matmul_flops


def test_peak_memory_grows_with_what_was_touched_and_stays():
    num_bytes = peak_resident_bytes() + 64 * 2**20
    block = bytearray(b"x") * num_bytes
    peak = peak_memory_gib("cpu")
    assert peak > num_bytes / GIB_BYTES
    del block
    assert peak_memory_gib("cpu") > 0.99 * peak  # the kernel counts in batches of pages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_speed_of_products_is_plausible_and_leaves_the_random_state(dtype):
    state = torch.get_rng_state()
    flops = measure_matmul_flops(torch.device("cpu"), dtype, size=256)
    assert 1e8 < flops < 1e14
    assert torch.equal(torch.get_rng_state(), state)


def test_a_manifest_has_what_was_passed_and_what_was_found(tmp_path):
    started = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    result = build_manifest(
        mesh={"dp_shard": 2},
        data_fingerprints={"gsm8k": "abc"},
        chat_template_hash="def",
        parent_checkpoint="runs/a/export",
        argv=["vlmforge", "train"],
        started=started,
        working_dir=tmp_path,
    )
    assert result["started"] == "2026-01-02T03:04:05+00:00"
    assert result["command"] == ["vlmforge", "train"]
    assert result["mesh"] == {"dp_shard": 2}
    assert result["data"] == {"gsm8k": "abc"}
    assert result["chat_template_sha256"] == "def"
    assert result["parent_checkpoint"] == "runs/a/export"
    assert result["git"] is None
    assert result["versions"]["vlmforge"] == vlmforge.__version__
    assert result["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert result["host"]["num_cpus"] >= 1
    assert json.loads(json.dumps(result)) == result


def test_a_package_that_is_missing_has_no_version(monkeypatch):
    monkeypatch.setattr(manifest, "PACKAGES", ("no-such-package",))
    assert build_manifest(mesh={}, data_fingerprints={})["versions"]["no-such-package"] is None


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_state_tells_commit_and_changes(tmp_path):
    git(tmp_path, "init")
    assert read_git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "first")
    clean = read_git_state(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["is_dirty"] is False
    (tmp_path / "untracked").write_text("1")
    assert read_git_state(tmp_path) == clean
    (tmp_path / "a").write_text("2")
    assert read_git_state(tmp_path) == clean | {"is_dirty": True}


def test_a_machine_without_git_is_no_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_git_state(tmp_path) is None
