"""Every shipped recipe at scale=tiny: trains, exports and generates, on one process and on two, with equal losses.

So does a recipe of a user's own for each model family that no shipped recipe has; those of `STOPS` stop and go on.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.recipes.worker import STOPPING
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.runs import metrics, sample_ids
from vlmforge.cli import main
from vlmforge.config.recipes import installed_folder, list_recipes
from vlmforge.data.draw import draw_square
from vlmforge.models import FAMILIES

# All recipes train in the fixture, which takes minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]

SHIPPED = [found for found in list_recipes() if not found.path.stem.startswith("generate")]
# Those that train nothing.
ANSWERING = [found.name for found in list_recipes() if found.path.stem.startswith("generate")]

# Families that no shipped recipe trains, by a model file and a stage: adapters where adapters leave something out.
OWN = {
    "llama4": ("llama4_scout", "lora"),
    "mistral": ("mistral_7b_v0p1", "sft"),
    "qwen3_moe": ("qwen3_30b_a3b", "lora"),
    "gemma2": ("gemma2_2b", "sft"),
    "gemma3": ("gemma3_1b", "sft"),
    "qwen2_5_vl": ("qwen2p5_vl_3b", "lora"),
    "qwen3_vl_moe": ("qwen3_vl_30b_a3b", "lora"),
    "internvl": ("internvl3_1b", "sft"),
}
STOPS = ("llama4", "qwen3_moe")
FOLDERS = {family: STOPPING if family in STOPS else "own" for family in OWN}
NAMES = [recipe.name for recipe in SHIPPED] + [f"{FOLDERS[family]}/{family}" for family in OWN]


def family_of(recipe: Path) -> str:
    """The family of a shipped recipe, or of the model file in its defaults."""
    chosen = [item["/model"] for item in yaml.safe_load(recipe.read_text())["defaults"] if "/model" in item]
    return yaml.safe_load((installed_folder("configs") / "model" / f"{chosen[0]}.yaml").read_text())["family"]


def test_every_family_is_trained() -> None:
    assert {family_of(recipe.path) for recipe in SHIPPED} | set(OWN) == set(FAMILIES)


def write_own(folder: Path) -> None:
    for name in set(FOLDERS.values()):
        (folder / "recipes" / name).mkdir(parents=True)
    for family, (model, stage) in OWN.items():
        sees = FAMILIES[family].vision is not None
        data = "pokemon_captions" if sees else "text"
        groups = {"model": model, "parallelism": "fsdp", "data": data, "stage": stage}
        lines = ["# A family's own run", "defaults:", *(f"  - /{name}: {value}" for name, value in groups.items())]
        lines += [
            "  - _self_",
            "stage: {labels: all, seq_len: 512, packing: best_fit}",
            "checkpointing: {export: last}",
        ]
        (folder / "recipes" / FOLDERS[family] / f"{family}.yaml").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {size: tmp_path_factory.mktemp(f"ranks{size}") for size in (1, 2)}
    for folder in folders.values():
        write_own(folder)
    groups = [start_ranks("tests.recipes.worker", size, folder, *NAMES) for size, folder in folders.items()]
    for group in groups:
        wait_for_ranks(group, timeout_seconds=900)
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


@pytest.mark.parametrize("name", ANSWERING)
def test_a_recipe_that_only_answers_does(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("square.png").write_bytes(draw_square(40, 24, (200, 60, 30)))
    assert main(["generate", f"recipe={name}", "scale=tiny", "image=square.png", "prompt=What is it?"]) == 0
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize("size", [1, 2])
def test_a_merged_export_is_the_base_with_its_adapter(size: int, folders: dict[int, Path]) -> None:
    run = run_of(folders[size], "smollm2/gsm8k_lora")
    base = AutoModelForCausalLM.from_pretrained(run / "base_model", dtype=torch.float32)
    by_peft = PeftModel.from_pretrained(base, str(run / "export")).merge_and_unload().state_dict()
    merged = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32).state_dict()
    plain = AutoModelForCausalLM.from_pretrained(run / "base_model", dtype=torch.float32).state_dict()
    assert merged.keys() == by_peft.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(weight, by_peft[name], rtol=1e-6, atol=1e-8)
        assert torch.equal(weight, plain[name]) != name.endswith("_proj.weight"), name
