"""A disk that is full, provoked: no file of the process may be larger than a limit."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.support.runs import ROOT, environment, write_recipe

from vlmforge.errors import FullDisk
from vlmforge.train.full_disk import tell_full_disk

WORDS = ["train", "recipe=short.yaml", "stage.max_steps=3", "checkpointing.every_steps=1", "run.name=one"]


def train(folder: Path, *words: str, limit: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vlmforge", *WORDS, *words],
        cwd=folder,
        env={**environment(), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
    )


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_run_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(tmp_path: Path, num_ranks: int) -> None:
    write_recipe(tmp_path)
    mesh = f"parallelism.dp_shard={num_ranks}"
    assert train(tmp_path, mesh, "run.stop_after_steps=1").returncode == 0
    full = train(tmp_path, mesh, limit=40_000)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert full.stderr.count("error:") == 1
    assert "cannot be written: File too large; " in full.stderr
    assert "GiB are free on its disk" in full.stderr
    assert "it goes on from step 1, whose checkpoint is whole" in full.stderr
    checkpoints = tmp_path / "runs" / "one" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000001"]
    done = train(tmp_path, mesh)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "one" / "metrics.jsonl").read_text().count("\n") == 3


def test_a_file_of_an_export_that_does_not_fit_is_told_too(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(FullDisk, match="it goes on from the start"), tell_full_disk(tmp_path / "checkpoints"):
            save_file({"w": torch.zeros(1000)}, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_other_errors_of_files_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), tell_full_disk(tmp_path):
        (tmp_path / "none").read_text()
