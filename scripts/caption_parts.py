"""How much of the answers of a captions run is right: the colours, the kind, or all.

    python scripts/caption_parts.py runs/captions-pretrain/scores.json

An answer is `a yellow and blue person`. Prints shares of right answers before and after training, and what saying
always the same would get: the commonest of the held-out rows themselves.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

COLOURS = re.compile(r"^an? (\w+(?: and \w+)?) (?=\w)")


def find_kind(answer: str) -> str:
    """What stands behind the colours; all where it does not begin with them."""
    return COLOURS.sub("", answer.strip())


def find_colours(answer: str) -> str:
    """One or two."""
    found = COLOURS.match(answer.strip())
    return found.group(1) if found else ""


def find_main_colour(answer: str) -> str:
    """The first of one or two."""
    return find_colours(answer).partition(" and ")[0]


PARTS: dict[str, Callable[[str], str]] = {
    "the main colour": find_main_colour,
    "all colours": find_colours,
    "the kind": find_kind,
    "all": str.strip,
}


def count_right(pairs: list[tuple[str, str]], part: Callable[[str], str]) -> int:
    """How often a part of the answer is that of the reference."""
    return sum(part(answer) == part(reference) for answer, reference in pairs)


def count_commonest(references: list[str], part: Callable[[str], str]) -> int:
    """How often the commonest value of a part occurs."""
    return Counter(map(part, references)).most_common(1)[0][1]


def main() -> None:
    """Print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path)
    scores = json.loads(parser.parse_args().scores.read_text())
    pairs = {
        when: [(answer["answer"], answer["reference"]) for answer in scores[when]["exact_match"]["answers"]]
        for when in ("before", "after")
    }
    references = [reference for _, reference in pairs["after"]]
    for name, part in PARTS.items():
        before, after = (count_right(pairs[when], part) for when in ("before", "after"))
        print(
            f"{name}: before {before}, after {after} of {len(references)}; always the commonest "
            f"{count_commonest(references, part)}"
        )


if __name__ == "__main__":
    main()
