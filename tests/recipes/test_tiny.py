"""Every shipped recipe at scale=tiny: trains, exports and generates, on one process and on two, with equal losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.runs import metrics, sample_ids
from vlmforge.cli import main
from vlmforge.config.recipes import list_recipes

NAMES = [recipe.name for recipe in list_recipes()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {size: tmp_path_factory.mktemp(f"ranks{size}") for size in (1, 2)}
    groups = [start_ranks("tests.recipes.worker", size, folder, *NAMES) for size, folder in folders.items()]
    for group in groups:
        wait_for_ranks(group)
    return folders


def run_of(folder: Path, name: str) -> Path:
    return folder / "runs" / (name.replace("/", "-") + "-tiny")


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_the_same_on_one_process_and_on_two(name: str, folders: dict[int, Path]) -> None:
    one, two = (run_of(folders[size], name) for size in (1, 2))
    assert sample_ids(one) == sample_ids(two)
    for ours, theirs in zip(metrics(one), metrics(two), strict=True):
        # Recipes compute in bfloat16, so the order of sums is seen.
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=5e-3)
        assert ours["num_label_tokens"] == theirs["num_label_tokens"]


@pytest.mark.parametrize("name", NAMES)
def test_its_export_generates(
    name: str, folders: dict[int, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders[2])
    words = [f"checkpoint={run_of(folders[2], name)}", "prompt=Hello", "stage.generation.max_new_tokens=4"]
    assert main(["generate", *words]) == 0
    assert capsys.readouterr().out.endswith("\n")
