"""The ledger: what became of every sample that the training has passed.

One ledger counts one step, and a run's ledger adds them up as steps are consumed. Every rank counts the whole
global batch, so all ledgers are equal without talking to each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from vlmforge.data.bad import LeftOut, format_sample_id
from vlmforge.data.sample import RenderedSample
from vlmforge.errors import DataError, Problem

# They are in every checkpoint; bad_samples.jsonl has all.
_BAD_IDS_KEPT = 10


@dataclass
class SourceCounts:
    """Counts of one source.

    Attributes:
        samples: samples that were trained on.
        tokens: their tokens.
        label_tokens: those of them that entered the loss.
        dropped: samples left out because they were too long.
        truncated: samples of `samples` that lost their end.
        shrunk: samples of `samples` whose pictures were given fewer tokens.
        bad: samples left out because they could not be read or had no label.
    """

    samples: int = 0
    tokens: int = 0
    label_tokens: int = 0
    dropped: int = 0
    truncated: int = 0
    bad: int = 0
    shrunk: int = 0

    @property
    def seen(self) -> int:
        """Samples whose turn has come."""
        return self.samples + self.dropped + self.bad

    def add(self, other: SourceCounts) -> None:
        """Add another count to this one."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(frozen=True)
class LostSample:
    """A sample that one rank had to leave out of a step, as it can be told to the others.

    Attributes:
        left_out: what it is and why.
        counts: what it was counted as before.
    """

    left_out: LeftOut
    counts: SourceCounts


def counts_of(sample: RenderedSample) -> SourceCounts:
    """What one sample that is trained on adds."""
    return SourceCounts(
        samples=1,
        tokens=sample.num_tokens,
        label_tokens=sample.num_label_tokens,
        truncated=int(sample.was_truncated),
        shrunk=int(any(span.num_shrinks > span.least_shrinks for span in sample.images)),
    )


class Ledger:
    """Counts by source, and the ids of the first bad samples.

    Attributes:
        sources: counts by source.
        bad_kinds: how many samples of a source are bad in which way.
    """

    def __init__(self) -> None:
        """An empty ledger."""
        self.sources: dict[str, SourceCounts] = {}
        self.bad_kinds: dict[str, Counter[str]] = {}
        self._earlier_bad_ids: list[str] = []
        self._left_out: list[LeftOut] = []

    @property
    def left_out(self) -> list[LeftOut]:
        """Of one step, every sample that was left out, by source and row; a run's ledger does not keep them.

        When they are found depends on who decodes their pictures, so that is no order to show.
        """
        return sorted(self._left_out, key=lambda sample: (sample.source, sample.index))

    @property
    def bad_ids(self) -> list[str]:
        """The first ten bad samples: of the first step that had any, then of the next."""
        own = [format_sample_id(sample.source, sample.index) for sample in self.left_out if sample.is_bad]
        return _first_different([*self._earlier_bad_ids, *own])

    def count_sample(self, sample: RenderedSample) -> None:
        """A sample that is trained on."""
        self._of(sample.source).add(counts_of(sample))

    def count_left_out(self, sample: LeftOut) -> None:
        """A sample that is not trained on."""
        self._left_out.append(sample)
        counts = self._of(sample.source)
        if not sample.is_bad:
            counts.dropped += 1
            return
        counts.bad += 1
        self.bad_kinds.setdefault(sample.source, Counter())[sample.kind] += 1

    def count_lost(self, lost: LostSample) -> None:
        """A sample that was counted as used and turned out bad when its pictures were decoded."""
        counts = self._of(lost.left_out.source)
        for field in fields(counts):
            setattr(counts, field.name, getattr(counts, field.name) - getattr(lost.counts, field.name))
        self.count_left_out(lost.left_out)

    def add(self, other: Ledger) -> None:
        """Add another ledger, for example that of a step, to this one."""
        for name, counts in other.sources.items():
            self._of(name).add(counts)
        for name, kinds in other.bad_kinds.items():
            self.bad_kinds.setdefault(name, Counter()).update(kinds)
        self._earlier_bad_ids = _first_different([*self.bad_ids, *other.bad_ids])
        self._left_out = []

    def check_bad_ratio(self, max_bad_ratio: float, num_rows: int, blend: str = "data.train") -> None:
        """Stop a run whose data is worse than its owner allows.

        Args:
            max_bad_ratio: `data.max_bad_ratio`.
            num_rows: samples of an epoch. Before that many (but at most 1000) were seen the share is taken of
                that number, so that one bad sample among the first eight does not stop a run over thousands.
            blend: whose samples they are.

        Raises:
            DataError: the share of bad samples is above `max_bad_ratio`.
        """
        bad = sum(counts.bad for counts in self.sources.values())
        seen = sum(counts.seen for counts in self.sources.values())
        if bad <= max_bad_ratio * max(seen, min(num_rows, 1000)):
            return
        raise DataError(
            Problem(
                what=f"{bad} of {seen} samples are bad, more than data.max_bad_ratio = {max_bad_ratio}",
                where=f"{blend}: samples {', '.join(self.bad_ids)}{', ...' if bad > _BAD_IDS_KEPT else ''} "
                f"({self._tell_kinds()})",
                fix="mend them (bad_samples.jsonl in the run folder says what is wrong with each), or raise "
                "data.max_bad_ratio",
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """For `ledger.json` and checkpoints: the counts, and each source's share of the samples and tokens used."""
        return {
            "sources": {
                name: {**asdict(counts), "share": self._share(counts.samples, "samples")}
                | {"token_share": self._share(counts.tokens, "tokens")}
                | {"bad_kinds": dict(sorted(self.bad_kinds.get(name, Counter()).items()))}
                for name, counts in sorted(self.sources.items())
            },
            "bad_ids": self.bad_ids,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Ledger:
        """The ledger that `as_dict` wrote down."""
        ledger = cls()
        names = [field.name for field in fields(SourceCounts)]
        for source, counts in state["sources"].items():
            ledger.sources[source] = SourceCounts(**{name: counts.get(name, 0) for name in names})
            ledger.bad_kinds[source] = Counter(counts.get("bad_kinds", {}))
        ledger._earlier_bad_ids = list(state["bad_ids"])
        return ledger

    @property
    def has_left_out(self) -> bool:
        """Whether any sample was not trained on."""
        return any(counts.seen > counts.samples for counts in self.sources.values())

    def lines(self) -> Iterator[str]:
        """What came of each source, for people."""
        width = max(map(len, self.sources), default=0)
        for name, counts in sorted(self.sources.items()):
            kinds = ("dropped", "truncated", "shrunk", "bad")
            not_whole = "".join(f", {number} {kind}" for kind in kinds if (number := getattr(counts, kind)))
            bad = f" ({self._tell_kinds(name)})" if counts.bad else ""
            yield (
                f"{name:<{width}}  {self._share(counts.samples, 'samples'):.1%} of the samples, "
                f"{self._share(counts.tokens, 'tokens'):.1%} of the tokens: {counts.samples} samples{not_whole}{bad}"
            )

    def _tell_kinds(self, *names: str) -> str:
        """How many are bad in which way, of some sources or of all."""
        total: Counter[str] = Counter()
        for name in names or self.bad_kinds:
            total.update(self.bad_kinds.get(name, Counter()))
        return ", ".join(f"{number} {kind}" for kind, number in total.most_common())

    def _share(self, number: int, kind: Literal["samples", "tokens"]) -> float:
        """A number of samples or tokens as a share of all that were used."""
        total = sum(getattr(counts, kind) for counts in self.sources.values())
        return number / total if total else 0.0

    def _of(self, source: str) -> SourceCounts:
        """The counts of a source."""
        return self.sources.setdefault(source, SourceCounts())


def _first_different(ids: list[str]) -> list[str]:
    """The first few; a sample that is bad is so in every epoch."""
    return list(dict.fromkeys(ids))[:_BAD_IDS_KEPT]
