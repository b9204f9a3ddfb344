"""On every mesh: bfloat16 near float32, recomputing and offloading change nothing, compiling no more than rounding."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.numerics.precision import BF16, COMPILED, FULL, LORA, MESHES, SEEING, configure
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.tiny import make_adapter, make_base
from vlmforge.config.derived import Axes
from vlmforge.parallel.mesh import open_world
from vlmforge.train.parity import Bounds, Record, compare
from vlmforge.train.plain_loop import record_plain
from vlmforge.train.recording import record_mesh

# Two to four minutes, most of them tracing layers.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

# Of one kind of layer, with and without gradients, in one piece or in as many as there are calls to other ranks.
MOST_GRAPHS = {"dp_shard2": 4, "tp2": 30}
# docs/parity.md states them: a model of two layers, weights and gradients summed in float32, computed in bfloat16.
BF16_BOUNDS = Bounds(losses=2e-3, grad_norms=2e-2, grads=5e-2, logits=5e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every way to train on every mesh, the same in float32 by a plain loop, and in bfloat16 on one process."""
    folder = tmp_path_factory.mktemp("precision")
    for family in SEEING:
        make_base(folder / family, family)
    for family in ("qwen3", "llama"):
        make_adapter(folder / f"{family}-adapter", make_base(folder / family, family))
    ranks = start_ranks("tests.numerics.worker_precision", 2, folder)
    with open_world(Axes(), "cpu", 60.0) as world:
        for name, case in (("bf16", FULL), ("bf16-lora", LORA)):
            record_plain(configure(case, folder)).save(folder / f"fp32-{name}")
            record_mesh(configure(case, folder, **BF16), world).save(folder / f"single-{name}")
    wait_for_ranks(ranks, timeout_seconds=1200)
    return folder


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["bf16", "bf16-lora"])
def test_bfloat16_is_within_the_stated_bounds_of_float32_and_of_one_process(mesh: str, name: str, folder: Path) -> None:
    ours = Record.load(folder / f"{mesh}-{name}")
    for other in ("fp32", "single"):
        difference = compare(ours, Record.load(folder / f"{other}-{name}"))
        assert BF16_BOUNDS.broken_by(difference) == [], other


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("changed", ["bf16-selective", "bf16-full", "bf16-offload"])
def test_recomputing_and_offloading_change_no_bit(mesh: str, changed: str, folder: Path) -> None:
    ours, plain = (Record.load(folder / f"{mesh}-{name}") for name in (changed, "bf16"))
    assert (ours.losses, ours.grad_norms) == (plain.losses, plain.grad_norms)
    assert [name for name, grad in plain.grads.items() if not grad.equal(ours.grads[name])] == []


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_layers_train_as_others(name: str, folder: Path) -> None:
    ours, plain = (Record.load(folder / f"{name}-{kind}") for kind in ("compiled", "plain"))
    assert Bounds().broken_by(compare(ours, plain)) == []
    # A layer that cannot be compiled runs as it is, without a word; and new lengths must not compile it again.
    assert 0 < int((folder / f"{name}-graphs-0").read_text()) <= MOST_GRAPHS[COMPILED[name][0]]
