"""The support matrix: every family on every mesh, in full and with adapters, packed and ragged, as measured.

`python -m tests.numerics.support_matrix [family ...]` trains every cell (of these families), writes what was measured
to docs/support-matrix.json, and the page from that file. Nothing in either is typed by hand.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.numerics.cells import MESHES, TRAINED, cell_case, families_on, page_cases
from tests.numerics.harness import NUM_STEPS, configure, read_refusal
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.runs import ROOT
from tests.support.tiny import make_adapter, make_base
from vlmforge.train.parity import Bounds, Difference, Record, compare
from vlmforge.train.plain_loop import record_plain

RESULTS = ROOT / "docs/support-matrix.json"
PAGE = ROOT / "docs/support-matrix.md"
KINDS = {"full": False, "lora": True}
COLUMNS = [mesh for meshes in MESHES.values() for mesh in meshes]

HEAD = f"""\
# Support matrix

Every family on every mesh, as measured, not as intended: `python -m tests.numerics.support_matrix` trains a small model
of each family, with the family's own classes, for {NUM_STEPS} steps in float32, once packed and once in ragged
micro-batches, and compares with a plain transformers (and peft) loop: every step's loss to {Bounds().losses:.0e}, every
step's gradient norm to {Bounds().grad_norms:.0e}, every single parameter's gradient in the first step to
{Bounds().grads:.0e}, all relative. That command writes this page too.

The number of a cell is the largest difference of any parameter's gradient. It links to the test that trains the same
cell on every change of the code; behind the `#` stands which of its cases. "refused": `vlmforge validate` says why, and
so does the last table. [Parity](parity.md) does the same for a recipe and a mesh of yours.
"""

Cells = dict[str, Any]


def cell_name(family: str, mesh: str, kind: str) -> str:
    return f"{family} {mesh} {kind}"


def measure(families: Sequence[str]) -> Cells:
    """Train the cells of some families; cell name to what was measured, or why it is refused."""
    with tempfile.TemporaryDirectory(prefix="vlmforge-matrix-") as name:
        folder = Path(name)
        for family in families:
            make_adapter(folder / f"{family}-adapter", make_base(folder / family, family))
            for case in page_cases(family).values():
                record_plain(configure(case, folder)).save(folder / f"plain-{case.name}")
        for size in MESHES:
            wait_for_ranks(start_ranks("tests.numerics.worker_cells", size, folder, *families), timeout_seconds=7200)
        return {
            cell_name(family, mesh, kind): _cell(family, mesh, is_lora, folder)
            for mesh in COLUMNS
            for family in families
            if family in families_on(mesh)
            for kind, is_lora in KINDS.items()
        }


def _cell(family: str, mesh: str, is_lora: bool, folder: Path) -> Cells:
    cell: Cells = {}
    for (of_lora, cut), case in page_cases(family).items():
        if of_lora != is_lora:
            continue
        refusal = read_refusal(folder, mesh, case)
        if refusal is not None:
            return {"refused": refusal}
        ours, plain = Record.load(folder / f"{mesh}-{case.name}"), Record.load(folder / f"plain-{case.name}")
        cell[cut] = _numbers(compare(ours, plain))
    return cell


def _numbers(difference: Difference) -> Cells:
    name, worst = difference.worst_grad()
    numbers = {"loss": max(difference.losses), "grad_norm": max(difference.grad_norms), "grad": worst}
    broken = Bounds().broken_by(difference)
    return {
        **{what: float(f"{value:.1e}") for what, value in numbers.items()},
        "parameter": name,
        **({"broken": broken} if broken else {}),
    }


def render(cells: Mapping[str, Any]) -> str:
    """The page of the results."""
    lines = [HEAD]
    for kind, title in zip(KINDS, ("In full", "With adapters (LoRA)"), strict=True):
        lines += [f"## {title}", "", f"| family | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
        for family in TRAINED:
            row = [_show(cells.get(cell_name(family, mesh, kind)), family, mesh, kind) for mesh in COLUMNS]
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
    worst = max(run["grad"] for run in cell.values())
    return f"[{worst:.0e}](../tests/numerics/test_cells.py#{mesh}-{cell_case(family, KINDS[kind]).name})"


def main(families: Sequence[str]) -> None:
    """Measure some families, or all, and write both files."""
    measured = list(families) or list(TRAINED)
    old: Cells = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept = {name: cell for name, cell in old.items() if name.split()[0] not in measured and name.split()[0] in TRAINED}
    cells = dict(sorted({**kept, **measure(measured)}.items()))
    RESULTS.write_text(json.dumps(cells, indent=1) + "\n")
    PAGE.write_text(render(cells))


if __name__ == "__main__":
    main(sys.argv[1:])
