"""Pictures from files as other tools write them, trained on by the command without conversion."""

from __future__ import annotations

import csv
import json
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from tests.support.films import make_film
from tests.support.runs import metrics, sample_ids

from vlmforge.cli import main
from vlmforge.data.builtin_images import draw_picture
from vlmforge.data.draw import encode_png

TINY = ["recipe=qwen3_vl_2b/sft", "scale=tiny", "logging.sample_ids=true", "logging.trackers=[]"]
WHOLE = ["stage.max_steps=null", "stage.max_epochs=1"]
SHARDS = "{path:'shots-{0..1}.tar',format:captioning,name:shots,columns:{image:'jpg;png',caption:json.caption}}"
VERL = "{path:verl.parquet,format:messages,name:verl}"
FILMS = "{path:films.tar,format:video_qa,columns:{video:mp4,context:json.question,answers:json.answers}}"
TALK = "{path:films.jsonl,format:messages,name:talk}"
TABLE = "{path:table.csv,format:captioning,name:table,media_root:pictures}"


def write_shards(folder: Path, prefix: str = "shots") -> list[str]:
    """Two shards of the webdataset library, four captions each."""
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"{prefix}-{shard}.tar")) as writer:
            for k in range(4):
                writer.write({"__key__": f"{k:03d}", "png": draw_picture(k), "json": {"caption": f"caption {k}"}})
    return [f"{prefix}-{shard}.tar" for shard in range(2)]


def write_verl(folder: Path) -> None:
    """Messages and images as verl's script for pokemon-gpt4o-captions writes them: bytes in a column, tags in texts."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": "<image>What is it?"},
                {"role": "assistant", "content": f"Number {k}"},
            ],
            "images": [{"bytes": draw_picture(k), "path": None}],
        }
        for k in range(8)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "verl.parquet")


def write_table(folder: Path) -> None:
    """A folder of pictures and a table of captions; of the last three pictures one is gone, one damaged, one a bomb."""
    (folder / "pictures").mkdir()
    for k in range(8):
        (folder / "pictures" / f"{k}.png").write_bytes(draw_picture(k))
    (folder / "pictures" / "5.png").unlink()
    (folder / "pictures" / "6.png").write_bytes(b"no picture")
    # A header that promises 10 billion pixels.
    bomb = bytearray(encode_png(1, [b"abc"]))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (folder / "pictures" / "7.png").write_bytes(bytes(bomb))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], *([f"{k}.png", f"thing, {k}"] for k in range(8))])


def write_prepared(folder: Path) -> None:
    """A folder as `energon prepare` leaves it, and a blend of it with half of itself."""
    meta = folder / "prepared" / ".nv-meta"
    meta.mkdir(parents=True)
    shards = write_shards(folder / "prepared", "part")
    sample_type = {"__module__": "megatron.energon", "__class__": "CaptioningSample"}
    field_map = {"image": "png", "caption": "json[caption]"}
    (meta / "dataset.yaml").write_text(yaml.safe_dump({"sample_type": sample_type, "field_map": field_map}))
    (meta / "split.yaml").write_text(yaml.safe_dump({"split_parts": {"train": shards}, "exclude": []}))
    (meta / ".info.json").write_text(json.dumps({"shard_counts": dict.fromkeys(shards, 4)}))
    head = {"__module__": "megatron.energon", "__class__": "MetadatasetV2"}
    blend = [{"path": "./prepared", "weight": 3}, {"path": "./prepared", "weight": 1, "subset": {"range": [0, 4]}}]
    (folder / "blend.yaml").write_text(yaml.safe_dump(head | {"splits": {"train": {"blend": blend}}}))


def write_films(folder: Path) -> None:
    """Films in a shard as energon's VidQA has them, and conversations about films in files and in single frames."""
    film = make_film()
    with webdataset.TarWriter(str(folder / "films.tar")) as writer:
        for k in range(4):
            writer.write({"__key__": f"{k:03d}", "mp4": film, "json": {"question": "What?", "answers": [f"Film {k}"]}})
    (folder / "film.mp4").write_bytes(film)
    (folder / "film.png").write_bytes(draw_picture(1))
    videos = ["film.mp4", ["film.png", "film.png", "film.png"]]
    rows = [
        {
            "messages": [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "It"}],
            "videos": [v],
        }
        for v in videos
    ]
    (folder / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for write in (write_shards, write_verl, write_table, write_prepared, write_films):
        write(folder)
    return folder


@pytest.fixture
def inside(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(files)
    for name in ("RANK", "WORLD_SIZE", "VLMFORGE_RENDEZVOUS"):
        monkeypatch.delenv(name, raising=False)
    return files


def test_shards_parquet_and_a_folder_with_a_table_are_trained_on_and_bad_pictures_counted(inside: Path) -> None:
    sources = f"data.train=[{SHARDS},{VERL},{TABLE}]"
    skip = ["data.on_bad_sample=skip", "data.max_bad_ratio=0.2"]
    assert main(["train", *TINY, sources, *skip, *WHOLE, "run.name=mixed"]) == 0
    run = inside / "runs/mixed"
    assert {name for step in sample_ids(run) for name in step} == {
        *(f"shots#{k}" for k in range(8)),
        *(f"verl#{k}" for k in range(8)),
        *(f"table#{k}" for k in range(5)),
    }
    counts = json.loads((run / "ledger.json").read_text())["sources"]["table"]
    assert counts["bad_kinds"] == {"missing_file": 1, "oversized_image": 1, "undecodable_image": 1}
    lines = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    bad = {sample["sample"]: sample for line in lines for sample in line["samples"]}
    for index, words in (
        (5, "file pictures/5.png does not exist"),
        (6, "is no picture that can be read"),
        (7, "has more than 89478485 pixels"),
    ):
        assert words in bad[f"table#{index}"]["reason"]
        assert bad[f"table#{index}"]["where"].startswith(f"table.csv:{index + 2} (sample table#{index})")


def test_a_bad_picture_stops_a_run_with_its_place(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"data.train=[{TABLE}]", "data.shuffle=false", "run.name=strict"]
    assert main(["train", *TINY, *WHOLE, *words]) == 3
    report = capsys.readouterr().err
    assert "error: file pictures/5.png does not exist" in report
    assert "where: table.csv:7 (sample table#5), image, 5.png" in report
    assert "media_root" in report


def test_an_energon_blend_over_prepared_shards_is_trained_on(inside: Path) -> None:
    assert main(["train", *TINY, "data.train=blend.yaml", "run.name=energon"]) == 0
    assert len(metrics(inside / "runs/energon")) == 3
    assert all(name.startswith("prepared") for step in sample_ids(inside / "runs/energon") for name in step)


@pytest.mark.parametrize("model", ["qwen3_vl_2b", "internvl3_1b", "nvlm_qwen2p5_7b_internvit_6b"])
def test_films_are_trained_on(model: str, inside: Path) -> None:
    words = [f"data.train=[{FILMS},{TALK}]", f"model={model}", "model.image.num_frames=3", f"run.name={model}"]
    assert main(["train", *TINY, *WHOLE, *words]) == 0
    run = inside / "runs" / model
    names = {name for step in sample_ids(run) for name in step}
    assert names == {*(f"films#{k}" for k in range(4)), "talk#0", "talk#1"}
    ledger = json.loads((run / "ledger.json").read_text())["sources"]
    assert {counts["shrunk"] for counts in ledger.values()} == {0}, "a frame's own budget is no shrinking"


def test_what_the_model_cannot_see_is_refused_before_the_run(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "bad.jsonl").write_text((inside / "films.jsonl").read_text().replace("film.mp4", "films.jsonl"))
    assert main(["validate", *TINY, f"data.train=[{TALK.replace('films', 'bad')}]"]) == 3
    assert "the file is no picture that can be read" in capsys.readouterr().err
    assert main(["validate", "recipe=dates", f"data.train=[{TALK}]"]) == 3
    assert "the sample has images, and the model takes text only" in capsys.readouterr().err
