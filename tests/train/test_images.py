"""A run over pictures, one of which cannot be decoded: on one process and on two, whole and resumed."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.runs import column, metrics, sample_ids
from tests.support.seeing import SEEING_MODEL

from vlmforge.data.draw import draw_square

pytestmark = pytest.mark.slow

RECIPE = f"""\
# A short run over pictures in files
{SEEING_MODEL}parallelism: {{dp_shard: 1, param_dtype: float32}}
data:
  train: [{{path: chats.jsonl, format: messages}}]
  validation: [{{path: chats.jsonl, format: messages, name: held_out, rows: [8, 16]}}]
  on_bad_sample: skip
  max_bad_ratio: 1.0
stage: {{seq_len: 256, packing: best_fit, packing_window: 8, micro_batch_size: 1, global_batch_size: 2, max_steps: 5,
        loss: {{weighting: sqrt_turns}}, optimizer: {{lr: 1.0e-3, group_lr: {{projector: 4.0e-3}}}}}}
logging: {{sample_ids: true, trackers: []}}
"""
BAD = 5
NUM_ROWS = 16


def write_data(folder: Path) -> None:
    (folder / "images.yaml").write_text(RECIPE)
    rows = []
    for number in range(NUM_ROWS):
        picture = folder / f"{number}.png"
        picture.write_bytes(draw_square(20 + 3 * number, 60 - 2 * number, (200, 10 * number, 0)))
        image = {"type": "image", "image": picture.name}
        content = [image, {"type": "text", "text": "What?"}] if number % 4 else "No picture"
        rows.append({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A square"}]})
    # Its header is whole, its pixels are not.
    buffer = BytesIO()
    Image.effect_noise((64, 48), 90).save(buffer, "JPEG")
    (folder / f"{BAD}.png").write_bytes(buffer.getvalue()[:700])
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {size: tmp_path_factory.mktemp(f"ranks{size}") for size in (1, 2)}
    for folder in folders.values():
        write_data(folder)
    groups = [start_ranks("tests.train.worker_images", size, folder) for size, folder in folders.items()]
    for group in groups:
        wait_for_ranks(group)
    return folders


@pytest.mark.parametrize("size", [1, 2])
def test_a_picture_without_pixels_is_left_out_and_counted(size: int, folders: dict[int, Path]) -> None:
    run = folders[size] / "runs/whole"
    ledger = json.loads((run / "ledger.json").read_text())
    seen = [name for step in sample_ids(run) for name in step]
    assert len(seen) > NUM_ROWS, "the run is longer than an epoch"
    assert f"chats#{BAD}" not in seen
    assert f"chats#{BAD}" in ledger["bad_ids"]
    assert ledger["sources"]["chats"]["bad"] >= 1
    assert ledger["sources"]["chats"]["samples"] == len(seen)
    assert ledger["sources"]["chats"]["tokens"] == sum(line["num_tokens"] for line in metrics(run))


@pytest.mark.parametrize("name", ["whole", "mixed"])
def test_two_processes_train_as_one(name: str, folders: dict[int, Path]) -> None:
    one, two = (folders[size] / "runs" / name for size in (1, 2))
    assert sample_ids(one) == sample_ids(two)
    for ours, theirs in zip(metrics(one), metrics(two), strict=True):
        for number in ("loss", "grad_norm"):
            assert ours[number] == pytest.approx(theirs[number], rel=2e-5)
    assert metrics(one)[-1]["validation_loss"] == pytest.approx(metrics(two)[-1]["validation_loss"], rel=2e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_that_goes_on_with_other_workers_is_the_whole_run(size: int, folders: dict[int, Path]) -> None:
    whole, stopped = (folders[size] / "runs" / name for name in ("whole", "stopped"))
    assert sample_ids(whole) == sample_ids(stopped)
    assert column(whole, "loss", "grad_norm") == column(stopped, "loss", "grad_norm")
    assert (whole / "ledger.json").read_text() == (stopped / "ledger.json").read_text()
    assert all(line["data_wait_seconds"] >= 0 for line in metrics(stopped))


@pytest.mark.parametrize("size", [1, 2])
def test_features_from_the_cache_train_bit_for_bit_alike(size: int, folders: dict[int, Path]) -> None:
    seen, kept, read = (folders[size] / "runs" / name for name in ("seen", "kept", "read"))
    assert column(seen, "loss", "grad_norm") == column(kept, "loss", "grad_norm") == column(read, "loss", "grad_norm")
    assert len({loss for (loss,) in column(seen, "loss")}) == 3
    # Two tiles of each of three pictures, and the stand-in of a micro-batch that has none.
    assert len(list((folders[size] / "embeds").rglob("*.safetensors"))) == 7
    weights = [load_file(run / "export/model.safetensors") for run in (seen, read)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_a_group_has_its_own_rate_on_the_same_schedule(folders: dict[int, Path]) -> None:
    rates = column(folders[2] / "runs/stopped", "lr", "lr_projector")
    assert rates[0] == (1e-3, 4e-3)
    assert all(own == pytest.approx(4 * lr, rel=1e-12) for lr, own in rates)


def test_the_export_is_what_plain_transformers_loads(folders: dict[int, Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    export = shutil.copytree(folders[2] / "runs/whole/export", tmp_path / "export")
    model: Any = AutoModelForImageTextToText.from_pretrained(export).eval()
    processor = AutoProcessor.from_pretrained(export)
    picture = Image.open(folders[2] / "6.png").convert("RGB")
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=text, images=[picture], return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert generate(export, folders[2] / "6.png", folders[2]) == expected


def generate(export: Path, picture: Path, folder: Path) -> str:
    """What the command answers."""
    import subprocess
    import sys

    from tests.support.runs import environment

    words = [f"checkpoint={export}", f"image={picture}", "prompt=What?", "stage.generation.max_new_tokens=8"]
    done = subprocess.run(
        [sys.executable, "-m", "vlmforge", "generate", *words, "parallelism.param_dtype=float32"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")
