"""The support matrix: every family on every mesh, in full and with adapters, packed and ragged, as measured.

`python -m tests.numerics.support_matrix [family or mesh ...]` trains every cell (of these families, on these meshes),
writes what was measured to docs/support-matrix.json, and the page from that file. Nothing in either is typed by hand.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.numerics.case import NUM_STEPS, load_case
from tests.numerics.cells import CELLS, MATRIX, MESHES, NAMES, SINGLE, WORLD_SIZES, cell_case, matrix_case, shown_on
from tests.numerics.results import is_zero, one_thread, read_difference, read_refusal, train, train_plain
from tests.support.ranks import start_groups, wait_for_ranks
from tests.support.runs import ROOT
from tests.support.tiny import make_adapter, make_base
from vlmforge.parallel.mesh import open_world
from vlmforge.train.parity import RESOLUTION, Bounds, Difference

RESULTS = ROOT / "docs/support-matrix.json"
PAGE = ROOT / "docs/support-matrix.md"
KINDS = {"full": False, "lora": True}
CUTS = {"packed": True, "ragged": False}

HEAD = f"""\
# Support matrix

Every family on every mesh, as measured, not as intended: `python -m tests.numerics.support_matrix` trains a small model
of each family, with the family's own classes, for {NUM_STEPS} steps in float32, once packed and once in ragged
micro-batches, and compares with a plain transformers (and peft) loop: every step's loss to {Bounds().losses:.0e}, every
step's gradient norm to {Bounds().grad_norms:.0e}, every single parameter's gradient in the first step to
{Bounds().grads:.0e}, all relative. A gradient that is rounding alone on both sides, its norm below {RESOLUTION:.0e} of
the norm of all, is zero: these are a tower's biases of keys, which move all scores of a query alike, and no other. That
command writes this page too. Families that see are trained on pictures, in three of four rows. AdamW's epsilon was EPS.
`stitched-radio-llama` is a stitched model of a RADIO tower and Llama, and so on.

The number of a cell is the largest difference of any parameter's gradient. It links to the test that trains the same
cell on every change of the code; the tool tip has the test's name. A number without a link was measured for this page
alone: of the stitched models, tests train eight on dp_shard 2 and one of four on every other mesh. "refused":
`vlmforge validate` says why, and so does the last table. An empty cell is not measured: the mesh spreads experts, and
the family has none, it is a product of meshes that are measured one by one, or a language model that is seldom behind a
tower. [Parity](parity.md) does the same for a recipe and a mesh of yours.
"""

Cells = dict[str, Any]


def cell_name(family: str, mesh: str, kind: str) -> str:
    return f"{family} {mesh} {kind}"


def all_names() -> set[str]:
    return {cell_name(family, mesh, kind) for mesh, (_, on) in MATRIX.items() for family in on for kind in KINDS}


def measure(families: Sequence[str], meshes: Sequence[str]) -> Cells:
    """Train some cells; cell name to what was measured, or why it is refused."""
    words = (*families, *meshes)
    with tempfile.TemporaryDirectory(prefix="vlmforge-matrix-") as name:
        folder = Path(name)
        for family in families:
            make_adapter(folder / f"{family}-adapter", make_base(folder / family, family))
        sizes = [size for size in WORLD_SIZES if any(MESHES[mesh].world_size == size for mesh in meshes)]
        ranks = start_groups("tests.numerics.worker", sizes, folder, *words) if sizes else []
        cases = {case for mesh in meshes for case in shown_on(mesh, words)}
        with one_thread():
            for case in {case.reference for case in cases}:
                train_plain(case, folder)
            with open_world(MESHES[SINGLE], "cpu", 60.0) as world:
                for case in shown_on(SINGLE, words):
                    train(case, SINGLE, world, folder)
        wait_for_ranks(ranks, timeout_seconds=7200)
        return {
            cell_name(family, mesh, kind): _cell(family, mesh, is_lora, folder)
            for mesh in meshes
            for family in MATRIX[mesh][1]
            if family in families
            for kind, is_lora in KINDS.items()
        }


def _cell(family: str, mesh: str, is_lora: bool, folder: Path) -> Cells:
    cell: Cells = {}
    for cut, is_packed in CUTS.items():
        case = matrix_case(family, is_lora, is_packed, mesh)
        refusal = read_refusal(folder, mesh, case)
        if refusal is not None:
            return {"refused": refusal}
        eps = load_case(case, folder).config.stage.optimizer.eps
        cell[cut] = {**_numbers(read_difference(folder, mesh, case)), "eps": eps}
    return cell


def _numbers(difference: Difference) -> Cells:
    name, worst = difference.worst_grad()
    numbers = {"loss": max(difference.losses), "grad_norm": max(difference.grad_norms), "grad": worst}
    broken = Bounds().broken_by(difference) + [name for name in difference.zeros if not is_zero(name)]
    return {
        **{what: float(f"{value:.1e}") for what, value in numbers.items()},
        "parameter": name,
        **({"broken": broken} if broken else {}),
    }


def render(cells: Mapping[str, Any]) -> str:
    """The page of the results."""
    eps = {run["eps"] for cell in cells.values() if "refused" not in cell for run in cell.values()}
    lines = [HEAD.replace("EPS", " and ".join(f"{value:.0e}" for value in sorted(eps)))]
    for kind, title in zip(KINDS, ("In full", "With adapters (LoRA)"), strict=True):
        lines += [f"## {title}", "", f"| family | {' | '.join(MATRIX)} |", f"|---|{'---|' * len(MATRIX)}"]
        for family in NAMES:
            row = [_show(cells.get(cell_name(family, mesh, kind)), family, mesh, kind) for mesh in MATRIX]
            lines.append(f"| {family} | {' | '.join(row)} |")
        lines.append("")
    refused = {name: cell["refused"] for name, cell in cells.items() if "refused" in cell}
    if refused:
        lines += ["## Why a cell is refused", "", "| family, mesh, kind | `validate` says |", "|---|---|"]
        lines += [f"| {name} | {reason} |" for name, reason in refused.items()]
        lines.append("")
    lines.append(f"{len(cells) - len(refused)} of {len(cells)} cells run; {len(refused)} are refused.")
    return "\n".join(lines) + "\n"


def _show(cell: Mapping[str, Any] | None, family: str, mesh: str, kind: str) -> str:
    if cell is None:
        return ""
    if "refused" in cell:
        return "refused"
    if any("broken" in run for run in cell.values()):
        return "**wrong**"
    worst = f"{max(run['grad'] for run in cell.values()):.0e}"
    case = cell_case(family, KINDS[kind], mesh)
    return f'[{worst}](../tests/numerics/test_cells.py "{mesh}-{case.name}")' if (mesh, case) in CELLS else worst


def main(words: Sequence[str]) -> None:
    """Measure some cells, or all, and write both files; cells that are no longer there go."""
    families, meshes = ([name for name in known if name in words] or list(known) for known in (NAMES, MATRIX))
    assert set(words) <= {*families, *meshes}, "names of families and of meshes of the table"
    measured = measure(families, meshes)
    old: Cells = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept = {name: cell for name, cell in old.items() if name in all_names()}
    cells = dict(sorted({**kept, **measured}.items()))
    RESULTS.write_text(json.dumps(cells, indent=1) + "\n")
    PAGE.write_text(render(cells))


if __name__ == "__main__":
    main(sys.argv[1:])
