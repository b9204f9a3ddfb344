"""Rules of how sources are mixed: weights, their unit, ends, blends inside blends, names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from vlmforge.config.encode import scalar_text
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.config.schema import SourceConfig
from vlmforge.config.sources import BLENDS, is_blend_file, walk_sources

# What a list of sources leaves to the sources in it, and what the file of a blend says itself.
_OF_ONE_SOURCE = ("path", "format", "split", "rows", "columns", "media_root", "fetch_media", "subflavors")
_NOT_OF_A_FILE = ("rows",)


def _lists(sources: Sequence[SourceConfig], at: str) -> Iterator[tuple[str, Sequence[SourceConfig]]]:
    """Every list of sources with its dotted path."""
    yield at, sources
    for path, source in walk_sources(sources, at):
        if source.sources:
            yield f"{path}.sources", source.sources


def check_weights(subject: Subject) -> Iterator[Finding]:
    """Weights are given for all sources of a list or for none."""
    for at, sources in _lists(subject.config.data.train, "data.train"):
        weighted = [index for index, source in enumerate(sources) if source.weight is not None]
        if weighted and len(weighted) < len(sources):
            missing = next(index for index in range(len(sources)) if index not in weighted)
            yield Finding(
                (f"{at}.{missing}.weight", f"{at}.{weighted[0]}.weight"),
                f"{at}.{missing}.weight is not set, and {at}.{weighted[0]}.weight is",
                f"{at}.{missing}.weight=1.0, or remove the weights of all sources",
            )


def check_mixing(subject: Subject) -> Iterator[Finding]:
    """What mixes sources needs mixing: not file order, and not validation."""
    data = subject.config.data
    for key in ("weight", "max_samples", "max_epochs"):
        found = [path for path, source in walk_sources(data.train, "data.train") if getattr(source, key) is not None]
        if found and not data.shuffle:
            yield Finding(
                (f"{found[0]}.{key}", "data.shuffle"),
                f"{found[0]}.{key} has no effect with data.shuffle = false: sources are read one after the other",
                f"remove every {key}{'' if key == 'weight' else ' (rows: [start, stop] chooses rows)'}, "
                "or data.shuffle=true",
            )
        for path, source in walk_sources(data.validation, "data.validation"):
            if getattr(source, key) is not None:
                at = f"{path}.{key}"
                yield Finding((at,), f"{at} has no effect: validation data is read in file order", f"remove {at}")


def check_unit(subject: Subject) -> Iterator[Finding]:
    """A unit needs weights that it is the unit of."""
    data = subject.config.data
    has_weights = any(
        source.weight is not None or is_blend_file(source) for _, source in walk_sources(data.train, "data.train")
    )
    if subject.is_set("data.weight_unit") and not has_weights:
        yield Finding(
            ("data.weight_unit",),
            f"data.weight_unit = {data.weight_unit} has no effect: no source of data.train has a weight",
            "data.train.0.weight=1.0, and so on for every source, or remove data.weight_unit",
        )
    for blend in BLENDS:
        for at, source in walk_sources(getattr(data, blend), f"data.{blend}"):
            weighs = any(inner.weight is not None for inner in source.sources)
            if source.weight_unit is not None and not weighs:
                yield Finding(
                    (f"{at}.weight_unit",),
                    f"{at}.weight_unit = {source.weight_unit} has no effect: there are no weights in {at}.sources",
                    f"remove {at}.weight_unit",
                )


def check_streams(subject: Subject) -> Iterator[Finding]:
    """A source that cannot seek has no number of rows, and its windows are made in order."""
    data, stage = subject.config.data, subject.config.stage
    for at, sources in _lists(data.train, "data.train"):
        for index, source in enumerate(sources):
            if not source.streaming:
                continue
            where = f"{at}.{index}"
            what = f"{where}.streaming = true: nobody knows how many rows there are"
            if len(sources) > 1 and source.weight is None:
                yield Finding((f"{where}.streaming",), f"{what}, so it needs a weight", f"{where}.weight=1.0")
            if source.max_epochs is not None:
                fix = f"{where}.max_samples=<number>, or remove {where}.max_epochs"
                yield Finding((f"{where}.max_epochs", f"{where}.streaming"), f"{what}, so epochs are not counted", fix)
    streams = [at for at, source in walk_sources(data.train, "data.train") if source.streaming]
    if not streams:
        return
    at = f"{streams[0]}.streaming"
    units = [data.weight_unit, *(source.weight_unit for _, source in walk_sources(data.train, "data.train"))]
    if any(unit in ("tokens", "epochs") for unit in units):
        fix = "data.weight_unit=samples, or a copy of the data on this machine without streaming"
        yield Finding((at, "data.weight_unit"), f"{at} = true: weights can be in samples only", fix)
    if stage.max_epochs is not None:
        what = f"stage.max_epochs = {scalar_text(stage.max_epochs)} counts rows, and {at} = true has no number of them"
        yield Finding(("stage.max_epochs", at), what, "~stage.max_epochs stage.max_steps=100")
    if data.num_workers > 1:
        what = f"data.num_workers = {data.num_workers}: windows of a source that cannot seek ({at}) are made in order"
        yield Finding(("data.num_workers", at), what, "data.num_workers=1")


def check_nesting(subject: Subject) -> Iterator[Finding]:
    """An entry is a source, or a list of sources, or the file of a blend, and says nothing of the others."""
    empty = SourceConfig()
    for blend in BLENDS:
        for at, source in walk_sources(getattr(subject.config.data, blend), f"data.{blend}"):
            kind = "a list of sources" if source.sources else "the file of a blend"
            without = _OF_ONE_SOURCE if source.sources else _NOT_OF_A_FILE if is_blend_file(source) else ()
            for key in without:
                if getattr(source, key) != getattr(empty, key):
                    where = f"{at}.sources.0.{key}" if source.sources else "the file, as subset: {range: [...]}"
                    blamed = (f"{at}.{key}", f"{at}.sources" if source.sources else f"{at}.path")
                    yield Finding(blamed, f"{at}.{key} has no effect on {kind}", f"remove it, or say it in {where}")
            if is_blend_file(source) and len(source.path) > 1:
                yield Finding(
                    (f"{at}.path",),
                    f"{at}.path lists {len(source.path)} files; the YAML file of a blend stands alone",
                    "make one source of every file",
                )


def check_names(subject: Subject) -> Iterator[Finding]:
    """Names tell sources apart in the ledger and in sample ids."""
    for blend in BLENDS:
        entries = list(walk_sources(getattr(subject.config.data, blend), f"data.{blend}"))
        counts = Counter(source.name for _, source in entries if source.name is not None)
        seen: set[str] = set()
        for at, source in entries:
            name = source.name
            if name is not None and counts[name] > 1 and name in seen:
                where = f"{at}.name"
                other = f"{name}_{at.rpartition('.')[2]}"
                yield Finding((where,), f"{where} = {scalar_text(name)} is taken by another source", f"{where}={other}")
            seen.add(name or "")


RULES: tuple[Rule, ...] = (check_weights, check_mixing, check_unit, check_streams, check_nesting, check_names)
