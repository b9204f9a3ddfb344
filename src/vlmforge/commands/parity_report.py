"""What `vlmforge parity` prints: what was compared, a table of differences, and what is out of bounds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

from vlmforge.commands.configuring import LoadedRecipe
from vlmforge.config.reduce import NUM_STEPS
from vlmforge.config.schema import Config
from vlmforge.errors import EXIT_BUG, EXIT_OK, Problem
from vlmforge.models.shape import build_hf_config
from vlmforge.train.parity import Bounds, Difference, Record, compare

COLUMNS = ("mesh / one process", "mesh / plain loop", "one process / plain loop", "bound")
MAX_NAMED = 8


def describe_model(loaded: LoadedRecipe, reduced: Config) -> str:
    """Two lines: the mesh, and the model that stands for the recipe's."""
    axes = {name: size for name, size in asdict(loaded.batch.axes).items() if size > 1} or {"dp_shard": 1}
    mesh = " x ".join(f"{name} {size}" for name, size in axes.items())
    shape = build_hf_config(reduced.model).get_text_config()
    heads = f"{shape.num_attention_heads} heads, {shape.num_key_value_heads} key-value heads"
    stage = reduced.stage
    kind = "with adapters" if stage.adapter is not None else "in full"
    return (
        f"{loaded.recipe_name} on {mesh}\n"
        f"reduced to {shape.num_hidden_layers} layers, {heads}, float32, random weights, trained {kind}: "
        f"{stage.max_steps} steps of {stage.global_batch_size} rows, packing {stage.packing}"
    )


def step_teller() -> Callable[[int], None]:
    """Says of every step how long it took since now; the first of them with imports and loading."""
    started = time.monotonic()
    return lambda number: print(f"  step {number} of {NUM_STEPS}, {time.monotonic() - started:.0f} s", flush=True)


def report(mesh: Record, one: Record, plain: Record) -> int:
    """Print all differences; the exit code says whether each is within its bound."""
    bounds = Bounds()
    differences = [compare(mesh, one), compare(mesh, plain), compare(one, plain)]
    print("\n".join(_table(differences, bounds)))
    broken = [(name, found) for name, d in zip(COLUMNS, differences, strict=False) if (found := bounds.broken_by(d))]
    if not broken:
        print("ok: every difference is what sums in another order explain")
        return EXIT_OK
    is_mesh_alone = COLUMNS[2] not in dict(broken)
    for name, found in broken:
        print(_problem(name, found, is_mesh_alone), end="\n\n", file=sys.stderr)
    return EXIT_BUG


def _table(differences: list[Difference], bounds: Bounds) -> Iterator[str]:
    yield _line("largest relative difference", COLUMNS)
    yield _line("logits", [f"{d.logits:.1e}" for d in differences] + [f"{bounds.logits:.0e}"])
    for what in ("losses", "grad_norms"):
        label = {"losses": "loss", "grad_norms": "gradient norm"}[what]
        for step, values in enumerate(zip(*(getattr(d, what) for d in differences), strict=True), 1):
            cells = [f"{value:.1e}" for value in values]
            yield _line(f"{label}, step {step}", [*cells, f"{getattr(bounds, what):.0e}"])
    worst = [d.worst_grad() for d in differences]
    yield _line("gradient of one parameter", [f"{value:.1e}" for _, value in worst] + [f"{bounds.grads:.0e}"])
    yield f"  the parameter that differs most: {worst[0][0]}"
    zeros = sorted(differences[0].zeros)
    if zeros:
        yield f"  zero but for rounding, so equal: {len(zeros)} gradients, for example of {zeros[0]}"


def _line(label: str, cells: list[str] | tuple[str, ...]) -> str:
    return f"  {label:<28}" + "".join(f"{cell:>26}" for cell in cells)


def _problem(name: str, found: list[str], is_mesh_alone: bool) -> Problem:
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    fix = "do not train on this mesh; report the recipe and these lines as a bug in vlmforge, and use another mesh"
    if not is_mesh_alone:
        fix = "it is not the mesh, for one process differs too; report the recipe and these lines as a bug in vlmforge"
    return Problem(f"{name}: {'; '.join(found[:MAX_NAMED])}{more}", "the first five steps of the reduced model", fix)
