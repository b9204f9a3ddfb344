"""No rank holds the whole model while it loads: measured on two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.models.worker_loading import draw
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.runs import write_recipe
from tests.support.tiny import make_base
from transformers import LlamaConfig, LlamaForCausalLM

from vlmforge.config.derived import Axes
from vlmforge.models.tokenizer import build_byte_tokenizer
from vlmforge.parallel.mesh import open_world

MIB = 2**20
# Lists, plans and small buffers of reading; the model is far larger.
SLACK_BYTES = 24 * MIB


def make_large(folder: Path) -> tuple[int, int]:
    """A Llama of about 200 MiB in one file; its size and that of its largest tensor."""
    shape = LlamaConfig(
        vocab_size=4096,
        hidden_size=768,
        intermediate_size=2304,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(shape)
    model.to_empty(device="cpu")
    model.save_pretrained(folder)
    build_byte_tokenizer().save_pretrained(folder)
    sizes = [parameter.numel() * parameter.element_size() for parameter in model.parameters()]
    return sum(sizes), max(sizes)


@pytest.mark.parametrize("mesh", ["dp_shard2", "tp2"])
def test_memory_grows_by_a_ranks_share_and_a_tensor_while_a_model_is_read(mesh: str, loaded: Path) -> None:
    total, largest = json.loads((loaded / "sizes.json").read_text())
    for rank in range(2):
        growth = json.loads((loaded / f"growth-{rank}.json").read_text())[mesh]
        assert growth < total / 2 + largest + SLACK_BYTES, f"rank {rank}: {growth / MIB:.0f} MiB of {total / MIB:.0f}"
        # What was measured is the loading.
        assert growth > total / 4


@pytest.mark.parametrize("mesh", ["dp_shard2", "tp2"])
def test_random_weights_are_the_same_on_every_mesh_and_rank(mesh: str, loaded: Path) -> None:
    with open_world(Axes(), "cpu", 60.0) as world:
        alone = draw(write_recipe(loaded), world)
    assert any(".lora_A." in name for name in alone)
    for rank in range(2):
        assert json.loads((loaded / f"drawn-{rank}.json").read_text())[mesh] == alone


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """How far memory grew on each rank and mesh."""
    folder = tmp_path_factory.mktemp("loading")
    (folder / "sizes.json").write_text(json.dumps(make_large(folder / "large")))
    make_base(folder / "small", "llama")
    wait_for_ranks(start_ranks("tests.models.worker_loading", 2, folder))
    return folder
