"""Samples per second of vlmforge's loader beside those of WebDataset and of `datasets`, on the same shards.

    python scripts/fetch_assets.py --only smollm2 gsm8k openmoji
    python benchmarks/data_pipeline.py [--seconds 10]

Text: GSM8K problems in tar shards, each rendered by the chat template and tokenized by SmolLM2's tokenizer. Pictures:
OpenMoji's, 96 pixels squared, decoded, scaled and cut into patches by the image processor of a small Qwen3-VL, with
their question and answer tokenized. Every loader does the same work in 1 and in 2 workers, runs over the shards again
and again, and is timed after its first batches. The two others hand out single samples; vlmforge packs them into rows
of 1,024 tokens as well.

Then: how long it takes to draw sample 10 and sample 10,000,000 of a blend of three sources, and how many rows are read
for each. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.config.schema import Config, SourceConfig
from vlmforge.data.images import ImageRule
from vlmforge.data.loader import build_train_loader
from vlmforge.data.mixture import open_blend
from vlmforge.data.sources import Source
from vlmforge.models.images import build_image_rule
from vlmforge.models.tokenizer import build_tokenizer

TOKENIZER = "assets/smollm2-135m-instruct"
ROWS_PER_SHARD = 250
NUM_BATCH = 16
WORKERS = (1, 2)
QUESTION = "What does this picture show?"


def write_shards(folder: Path, samples: Iterable[dict[str, bytes]]) -> list[str]:
    """Tar shards of samples, members by ending, as the webdataset library writes them."""
    paths: list[str] = []
    iterator = iter(samples)
    while part := list(islice(iterator, ROWS_PER_SHARD)):
        path = folder / f"shard-{len(paths):04d}.tar"
        with tarfile.open(path, "w") as archive:
            for k, members in enumerate(part):
                for ending, content in members.items():
                    member = tarfile.TarInfo(f"{len(paths):04d}{k:06d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        paths.append(str(path))
    return paths


def text_samples() -> Iterator[dict[str, bytes]]:
    """GSM8K problems as conversations."""
    for line in Path("assets/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield {"json": json.dumps({"messages": _pair(row["question"], row["answer"])}).encode()}


def picture_samples() -> Iterator[dict[str, bytes]]:
    """OpenMoji's pictures with question and answer."""
    for line in Path("assets/openmoji/messages.jsonl").read_text(encoding="utf-8").splitlines():
        question, answer = json.loads(line)["messages"]
        picture = Path("assets/openmoji") / question["content"][0]["image"]
        prompt = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        yield {
            "png": picture.read_bytes(),
            # In parts as well: Arrow, which `datasets` reads with, wants one type for all contents.
            "json": json.dumps({"messages": _pair(prompt, [{"type": "text", "text": answer["content"]}])}).encode(),
        }


def _pair(prompt: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def config_of(shards: list[str], kind: str, num_workers: int) -> Config:
    """A recipe over the shards: text for the quickstart's model, pictures for a small Qwen3-VL."""
    model = ["model=qwen3_vl_2b", "scale=tiny"] if kind == "pictures" else [f"model.tokenizer={TOKENIZER}"]
    stage = ["stage.seq_len=1024", "stage.packing=best_fit", "stage.packing_window=256", "stage.max_steps=1000000"]
    batch = ["stage.global_batch_size=2", "stage.micro_batch_size=1"]
    words = [*model, "model.chat_template=builtin:chatml", *stage, *batch]
    config = load_config(Request("train", {"recipe": ["quickstart"]}, words), with_data=False).config
    columns = {"messages": "json.messages"} | ({"images": "png"} if kind == "pictures" else {})
    source = SourceConfig(path=tuple(shards), format="messages", columns=columns, name=kind)
    return replace(config, data=replace(config.data, train=(source,), num_workers=num_workers))


def run_vlmforge(config: Config, seconds: float) -> float:
    """Samples a second of the loader that trains."""
    tokenizer = build_tokenizer(config.model)
    rule = build_image_rule(config.model, tokenizer)
    loader = build_train_loader(config, tokenizer, 0, 1, 1, image_rule=rule)
    return measure((len(step.sample_ids) for step in loader), seconds)


def measure(batches: Iterator[int], seconds: float) -> float:
    """Samples a second of an endless iterator of batch sizes, after the first few."""
    for _ in range(4):
        next(batches)
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        count += next(batches)
    return count / elapsed


def prepare_of(config: Config) -> Callable[[dict[str, Any]], Any]:
    """The same work as a function of a decoded sample, for loaders that call one."""
    tokenizer: Any = build_tokenizer(config.model)
    rule: ImageRule | None = build_image_rule(config.model, tokenizer)

    def prepare(sample: dict[str, Any]) -> Any:
        row = sample["json"]
        turns = json.loads(row)["messages"] if isinstance(row, bytes | str) else row["messages"]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if rule is None:
            return {"ids": ids}
        from PIL import Image

        picture = sample["png"]
        image = picture if isinstance(picture, Image.Image) else Image.open(io.BytesIO(picture))
        layout = rule.measure(*image.size)
        return {"ids": ids, "pixels": rule.make_tensors([image.convert("RGB")], [layout.grid]).pixel_values}

    return prepare


def _keep(batch: list[Any]) -> list[Any]:
    """What a trainer would get: the tensors of each sample, handed over from the worker."""
    return batch


def run_webdataset(shards: list[str], config: Config, num_workers: int, seconds: float) -> float:
    """WebDataset with its shuffle buffer, batched by torch's loader."""
    import torch
    import webdataset

    library: Any = webdataset
    data = library.WebDataset(shards, shardshuffle=100, nodesplitter=None, empty_check=False).repeat()
    data = data.shuffle(1000).map(prepare_of(config))
    loader = torch.utils.data.DataLoader(data, batch_size=NUM_BATCH, num_workers=num_workers, collate_fn=_keep)
    return measure(map(len, loader), seconds)


def run_datasets(shards: list[str], config: Config, num_workers: int, seconds: float) -> float:
    """`datasets` streaming the same shards, with its shuffle buffer."""
    import datasets
    import torch

    data: Any = datasets.load_dataset("webdataset", data_files={"train": shards}, split="train", streaming=True)
    data = data.shuffle(seed=0, buffer_size=1000).map(prepare_of(config), remove_columns=data.column_names).repeat(None)
    loader = torch.utils.data.DataLoader(data, batch_size=NUM_BATCH, num_workers=num_workers, collate_fn=_keep)
    return measure(map(len, loader), seconds)


class CountedRows:
    """Rows of a file that count how many of them are read."""

    num_read = 0

    def __init__(self, rows: Any) -> None:
        """Stand in for the rows of one file."""
        self._rows = rows

    def __getitem__(self, i: int) -> Any:
        """Row i, counted."""
        CountedRows.num_read += 1
        return self._rows[i]

    def locate(self, i: int) -> str:
        """As the file says."""
        return self._rows.locate(i)


def time_seeks(folder: Path) -> list[tuple[int, float, int]]:
    """For a near and a far sample: its number, the median microseconds to draw it, and the rows that are read."""
    for name, count in (("a", 50_000), ("b", 20_000), ("c", 5_000)):
        lines = (json.dumps({"text": f"row {k} of {name}"}) for k in range(count))
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    sources = tuple(
        SourceConfig(path=(str(folder / f"{name}.jsonl"),), format="text", weight=weight)
        for name, weight in (("a", 5.0), ("b", 3.0), ("c", 2.0))
    )
    data = replace(Config().data, train=sources)
    blend = open_blend(data, "train")
    order = blend.order(data, None)
    opened = [source for source in blend.sources if isinstance(source, Source)]
    counted = [replace(source, parts=tuple(map(CountedRows, source.parts))) for source in opened]
    results: list[tuple[int, float, int]] = []
    for n in (10, 10_000_000):
        seconds: list[float] = []
        for _ in range(500):
            start = time.perf_counter()
            source, row = order(n)
            opened[source].sample(row)
            seconds.append(time.perf_counter() - start)
        source, row = order(n)
        CountedRows.num_read = 0
        counted[source].sample(row)
        results.append((n, 1e6 * statistics.median(seconds), CountedRows.num_read))
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Samples per second of three loaders on the same shards.")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    seconds = parser.parse_args().seconds
    console = Console()
    heads = ("samples", "workers", "vlmforge", "WebDataset", "datasets", "to WebDataset", "to datasets")
    table = Table(*heads, title="samples per second, and vlmforge's divided by theirs")
    with tempfile.TemporaryDirectory() as temporary:
        for kind, samples in (("text", text_samples()), ("pictures", picture_samples())):
            folder = Path(temporary) / kind
            folder.mkdir()
            shards = write_shards(folder, samples)
            for num_workers in WORKERS:
                config = config_of(shards, kind, num_workers)
                ours = run_vlmforge(config, seconds)
                theirs = [run(shards, config, num_workers, seconds) for run in (run_webdataset, run_datasets)]
                rates = (f"{value:,.0f}" for value in (ours, *theirs))
                table.add_row(kind, str(num_workers), *rates, *(f"{ours / value:.2f}" for value in theirs))
        console.print(table)
        seeks = Table("sample", "microseconds", "rows read", title="drawing one sample of a blend of three sources")
        for n, micros, rows in time_seeks(Path(temporary)):
            seeks.add_row(f"{n:,}", f"{micros:.0f}", str(rows))
        console.print(seeks)


if __name__ == "__main__":
    main()
