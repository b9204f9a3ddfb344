"""GSM8K in the parquet layout of verl, out of rows that the user has.

    python -m vlmforge.data.gsm8k_parquet gsm8k/train.jsonl data/gsm8k/train.parquet

reads JSON lines with `question` and `answer`, as openai/grade-school-math and the hub's `openai/gsm8k` have them, and
writes the columns that verl's own preparation writes, so that the files serve both: `data_source`, `prompt` (one user
message that asks for steps and for the answer after `####`, in words of ours), `ability`, `reward_model` (the number
after `####`) and `extra_info` (split, index, and question and answer as they were, which is what SFT reads).

Every row is looked at before anything is written. Exit codes: 0 done; 2 arguments; 3 a row is none, or a file is not
there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmforge.errors import EXIT_OK, DataError, Problem

INSTRUCTION = 'Reason step by step and give the final answer after "####".'
# The last one counts: a solution may speak of others on its way.
ANSWER = re.compile(r"####\s*(-?[0-9][0-9.,]*)")
SPLITS = ("train", "test")
MAX_SHOWN = 10


def read_rows(path: Path) -> list[dict[str, str]]:
    """Every row of a JSONL file, with text in `question` and in `answer`, and a number after `####`.

    Raises:
        DataError: the file cannot be read, or rows are none; the first ten are named.
    """
    try:
        # Not `splitlines`, which also ends a line at characters that a JSON text may hold as they are.
        with path.open(encoding="utf-8") as file:
            lines = file.readlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        problem = Problem(f"{path} cannot be read: {reason}", str(path), "give a JSONL file, one object a line")
        raise DataError(problem) from error
    rows: list[dict[str, str]] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        found = _parse(line, f"{path}:{number}")
        if isinstance(found, Problem):
            problems.append(found)
        else:
            rows.append(found)
    if not lines:
        problems.append(Problem(f"{path} has no rows", str(path), "give a JSONL file, one object a line"))
    if len(problems) > MAX_SHOWN:
        left = len(problems) - MAX_SHOWN
        last = Problem(f"{left} more rows are wrong", str(path), "mend the ones above first, then run this again")
        problems = [*problems[:MAX_SHOWN], last]
    if problems:
        raise DataError(problems)
    return rows


def _parse(line: str, where: str) -> dict[str, str] | Problem:
    fix = 'a row is  {"question": "...", "answer": "... #### 42"}'
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return Problem(f"a row is not JSON: {error.msg}", where, fix)
    if not isinstance(row, dict):
        return Problem("a row is not a JSON object", where, fix)
    for name in ("question", "answer"):
        text = row.get(name)
        if not isinstance(text, str) or not text.strip():
            has = "is not there" if name not in row else "is not text" if not isinstance(text, str) else "is empty"
            return Problem(f"the field {name} {has}; this row has {', '.join(row) or 'no fields'}", where, fix)
    if find_answer(row["answer"]) is None:
        return Problem("the answer does not end in `#### ` and a number", where, fix)
    return {"question": row["question"], "answer": row["answer"]}


def find_answer(text: str) -> str | None:
    """The number after the last `####`, without thousands separators; None where there is none."""
    found = ANSWER.findall(text)
    return found[-1].rstrip(".,").replace(",", "") if found else None


def derive_row(row: dict[str, str], split: str, index: int) -> dict[str, Any]:
    """One row in verl's layout."""
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{row['question']} {INSTRUCTION}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": find_answer(row["answer"])},
        "extra_info": {"split": split, "index": index, "answer": row["answer"], "question": row["question"]},
    }


def write_parquet(rows: Sequence[dict[str, str]], split: str, path: Path) -> None:
    """Write rows in verl's layout; the file is complete or absent."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    table = pyarrow.Table.from_pylist([derive_row(row, split, index) for index, row in enumerate(rows)])
    try:
        pyarrow.parquet.write_table(table, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Make one file.

    Returns:
        The exit code of the module docstring.
    """
    parser = argparse.ArgumentParser(
        prog="python -m vlmforge.data.gsm8k_parquet", description="GSM8K rows in the parquet layout of verl."
    )
    parser.add_argument("input", type=Path, help="JSONL file with `question` and `answer`")
    parser.add_argument("output", type=Path, help="parquet file to write, for example data/gsm8k/train.parquet")
    parser.add_argument("--split", choices=SPLITS, help="what extra_info.split says; default: the output's name")
    arguments = parser.parse_args(argv)
    split = arguments.split or arguments.output.stem
    if split not in SPLITS:
        parser.error(f"{arguments.output.name} names no split: add --split train or --split test")
    try:
        rows = read_rows(arguments.input)
        write_parquet(rows, split, arguments.output)
    except DataError as error:
        print(error.report(), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        problem = Problem(
            f"{arguments.output} cannot be written: {error.strerror or error}",
            str(arguments.output.parent),
            "give a path in a folder that you may write, on a disk with room",
        )
        failed = DataError(problem)
        print(failed.report(), file=sys.stderr)
        return failed.exit_code
    print(f"{arguments.output}: {len(rows)} rows")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
