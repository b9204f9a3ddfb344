"""Samples that one step trains on several times, and what would keep them apart.

A packing window ends with an epoch, so this is a step that is larger than the data, or a source that a blend draws
again and again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from vlmforge.data.sample import Row
from vlmforge.data.window import Draws
from vlmforge.preview.lint import Note


def find_repeats(rows: Sequence[Row], draws: Mapping[str, Draws], row_unit: int) -> Iterator[Note]:
    """A note for each source of which samples come again.

    Args:
        rows: of the step.
        draws: from each source in a window.
        row_unit: what `stage.global_batch_size` must be a multiple of.
    """
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for row in rows:
        for sample in row:
            counts[sample.source][sample.index] += 1
    for source, count in sorted(counts.items()):
        num_again, most = sum(number > 1 for number in count.values()), max(count.values())
        if most == 1:
            continue
        often = "twice" if most == 2 else f"up to {most} times"
        one_step = f"{source}: {num_again} of its samples come {often} in this step"
        drawn = draws[source]
        if drawn.num_rows is None:
            yield Note(f"{one_step}: it has arrived to its end more than once")
            continue
        if count.total() > drawn.num_rows:
            fits = _count_rows_before_repeat(rows, source) // row_unit * row_unit
            fix = f"stage.global_batch_size={fits}" if fits else "fewer tokens in a step (stage.seq_len)"
            why = f"the step takes {count.total()} samples, and the source has {drawn.num_rows} rows"
        else:
            # Of a window as it is: one that is longer than an epoch ends with it.
            window = sum(source.in_window for source in draws.values())
            fix = f"stage.packing_window={max(1, window * drawn.num_rows // drawn.in_window)}"
            why = f"a packing window draws {drawn.in_window} samples of its {drawn.num_rows} rows"
        less = ", or draw less of it (weight, max_epochs)" if len(draws) > 1 else ""
        yield Note(f"{one_step}: {why}; {fix} keeps them apart{less}")


def _count_rows_before_repeat(rows: Sequence[Row], source: str) -> int:
    """Rows at the start of the step in which no sample of the source comes again."""
    seen: set[int] = set()
    for number, row in enumerate(rows):
        indices = [sample.index for sample in row if sample.source == source]
        if len(set(indices)) < len(indices) or seen.intersection(indices):
            return number
        seen.update(indices)
    return len(rows)
