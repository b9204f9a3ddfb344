"""Memory that runs out, provoked: the address space of the training process is limited."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys

import pytest
import torch
from tests.support.runs import ROOT, environment, write_recipe

from vlmforge.train.shortage import is_shortage

RUN = ["train", "recipe=short.yaml", "stage.global_batch_size=16", "stage.max_steps=3"]
# 16 rows of 256 tokens through an MLP 16,384 wide: each of its activations is 256 MiB.
WIDE = [*RUN, "stage.micro_batch_size=16", "model.config.intermediate_size=16384", "run.name=wide"]
# Six matrices of 256 MiB.
HEAVY = [*RUN, "stage.micro_batch_size=16", "model.config.intermediate_size=1048576", "run.name=heavy"]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("shortage")
    write_recipe(folder)
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.worker_shortage", str(900 * 2**20), json.dumps([WIDE, HEAVY])],
        cwd=folder,
        env={**environment(), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def lines_of(run: dict[str, object]) -> dict[str, str]:
    report = str(run["errors"])
    assert report.count("error:") == 1, report
    assert "Traceback" not in report
    return {line.partition(":")[0]: line for line in report.splitlines() if ": " in line}


def test_a_step_that_does_not_fit_names_its_tokens_and_what_is_left_to_change(said: list[dict[str, object]]) -> None:
    lines = lines_of(said[0])
    assert said[0]["code"] == 1
    found = re.search(r"out of memory in step 1, in micro-batches of up to (\d+) tokens: ", lines["error"])
    assert found is not None
    # Sixteen packed rows, not quite full.
    assert 3000 < int(found[1]) <= 16 * 256
    assert "GiB more was asked for" in lines["error"]
    assert "GiB held by this process (peak" in lines["error"]
    assert lines["where"] == "where: rank 0 of 1, cpu"
    assert "stage.micro_batch_size=8 (the global batch stays 16 rows, the loss too)" in lines["fix"]
    assert "parallelism.recompute=full" in lines["fix"]
    assert "stage.kind=lora stage.adapter.rank=16" in lines["fix"]
    # Ranks of one machine share its memory, micro_batch_size goes before seq_len, and this run computes in float32.
    for other in ("dp_shard", "seq_len", "model.dtype"):
        assert other not in lines["fix"]


def test_a_model_that_does_not_fit_is_told_as_such(said: list[dict[str, object]]) -> None:
    lines = lines_of(said[1])
    assert said[1]["code"] == 1
    assert "out of memory in loading the model: 0.25 GiB more was asked for" in lines["error"]
    assert "stage.kind=lora" in lines["fix"]
    assert "micro_batch_size" not in lines["fix"]


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(errno.ENOENT, "No such file"), False),
    ],
)
def test_only_a_shortage_is_told_as_one(error: Exception, is_one: bool) -> None:
    assert is_shortage(error) is is_one
