"""A blend file of Megatron-Energon over prepared folders, trained on by the command as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import webdataset
import yaml
from tests.support.runs import sample_ids
from tests.train.test_images import RECIPE

from vlmforge.cli import main
from vlmforge.data.builtin_images import draw_picture

pytestmark = pytest.mark.slow

CLASSES = {
    "captions": ("CaptioningSample", {"image": "png", "caption": "json[text]"}),
    "questions": ("VQASample", {"image": "png", "context": "json[question]", "answers": "json[answers]"}),
}
INNER = {"train": {"blend_epochized": [{"path": "questions", "repetitions": 2, "subflavors": {"VQASFT": True}}]}}
OUTER = {
    "train": {
        "datasets": [
            {"weight": 3, "path": "sets/captions", "subflavors": {"augmentation": False}},
            {"weight": 1, "path": "sets/inner.yaml", "subflavors": {"augmentation": False}},
        ]
    },
    "val": {"datasets": [{"path": "sets/captions", "split_part": "train"}]},
}


def prepare(folder: Path, name: str, count: int) -> None:
    """A folder as `energon prepare` leaves it, of one shard."""
    kind, columns = CLASSES[name]
    meta = folder / name / ".nv-meta"
    meta.mkdir(parents=True)
    with webdataset.TarWriter(str(folder / name / "a.tar")) as writer:
        for k in range(count):
            row = {"text": f"picture {k}", "question": f"Which is {k}?", "answers": ["this", "that"]}
            writer.write({"__key__": f"{k:03d}", "png": draw_picture(k), "json": row})
    kind = {"__module__": "megatron.energon", "__class__": kind}
    (meta / "dataset.yaml").write_text(yaml.safe_dump({"sample_type": kind, "field_map": columns}))
    (meta / "split.yaml").write_text(yaml.safe_dump({"exclude": [], "split_parts": {"train": ["a.tar"]}}))
    (meta / ".info.json").write_text(json.dumps({"shard_counts": {"a.tar": count}}))


@pytest.fixture
def blend(here: Path) -> Path:
    for name in CLASSES:
        prepare(here / "sets", name, 12)
    for path, kind, splits in (("sets/inner.yaml", "MetadatasetV2", INNER), ("blend.yaml", "Metadataset", OUTER)):
        head = {"__module__": "megatron.energon", "__class__": kind}
        (here / path).write_text(yaml.safe_dump(head | {"splits": splits}))
    (here / "images.yaml").write_text(RECIPE)
    return here


def test_prepared_folders_in_a_blend_are_trained_on_in_their_shares(
    blend: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recipe=images.yaml", "data.train=blend.yaml", "data.validation=blend.yaml", "~data.max_bad_ratio"]
    words += ["data.on_bad_sample=error", "stage.seq_len=512"]
    assert main(["validate", *words]) == 0
    # Of the few samples of a run, to the nearest whole one.
    assert re.search(r"captions +7[3-7]\.\d% of the samples", capsys.readouterr().out)
    assert main(["train", *words, "run.name=energon", "stage.max_steps=4", "checkpointing.export=never"]) == 0
    used = json.loads((blend / "runs/energon/ledger.json").read_text())["sources"]
    assert set(used) == {"captions", "questions"}
    names = [name for step in sample_ids(blend / "runs/energon") for name in step]
    assert 0.5 < sum(name.startswith("captions#") for name in names) / len(names) < 0.95

    # The weights stand in the blend alone, and decide the order.
    text = (blend / "blend.yaml").read_text()
    for old, new, told in (
        ("weight: 3", "weight: 2", 'terms is ["weight 3.0 in samples"] there and ["weight 2.0 in samples"] here'),
        ("  weight: 3", "  weight: 3\n      subset: {range: [0, 6]}", 'subsets is [] there and ["rows 0 to 6"] here'),
    ):
        (blend / "blend.yaml").write_text(text.replace(old, new, 1))
        assert main(["train", *words, "run.name=energon", "stage.max_steps=5", "checkpointing.export=never"]) == 4
        assert told in capsys.readouterr().err
