"""Line files of a run: metrics.jsonl and batches.jsonl, one JSON object for each step.

A line is written and flushed at once, so a killed run loses the line it was writing and no other. This file
does not decide how anything is measured.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from vlmforge.observe.files import write_text

METRIC_NAMES = (
    "step",
    "loss",
    "grad_norm",
    "lr",
    "num_tokens",
    "num_label_tokens",
    "tokens_per_second",
    "step_time_seconds",
    "data_wait_seconds",
    "peak_memory_gib",
    "mfu_ratio",
)


class JsonLines:
    """A file with one JSON object for each step, in the order of the steps.

    Numbers keep their full precision. What JSON has no word for (nan, inf) becomes null, so that every reader
    can read the line.
    """

    # How much greater a step must be than that of the line before.
    min_gap = 1

    def __init__(self, path: Path, enabled: bool = True) -> None:
        """Take over the file of an earlier run, if there is one.

        Args:
            path: the file; made, with its folder, when the first line is written.
            enabled: False on ranks that write nothing: every call does nothing.
        """
        self.path = path
        self._is_enabled = enabled
        self._file: TextIO | None = None
        self._last_step = -1

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line; `record["step"]` must be by `min_gap` greater than that of the line before."""
        if not self._is_enabled:
            return
        file = self._file or self._open()
        step = record["step"]
        assert step >= self._last_step + self.min_gap, f"{self.path.name}: step {step} after step {self._last_step}"
        file.write(json.dumps(_finite(dict(record)), ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        self._last_step = step

    def cut_after(self, step: int) -> int:
        """Remove the lines of steps that a resumed run will do again.

        Args:
            step: the last step to keep; 0 removes all trained steps.

        Returns:
            How many lines were removed.
        """
        if not self._is_enabled or not self.path.exists():
            return 0
        self.close()
        lines = self.path.read_text(encoding="utf-8").split("\n")
        kept = [line for line in lines if line and _is_kept(line, step)]
        write_text(self.path, "".join(line + "\n" for line in kept))
        return sum(bool(line) for line in lines) - len(kept)

    def close(self) -> None:
        """Close the file; a later `write` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        """Use the writer for the length of a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, whatever happened."""
        self.close()

    def _open(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(self.path)
        self._last_step = max((record["step"] for record in read_lines(self.path)), default=-1)
        self._file = self.path.open("a", encoding="utf-8")
        return self._file


class BadSampleLines(JsonLines):
    """bad_samples.jsonl of a run: a step may have a line for what is trained and one for what is held out."""

    min_gap = 0


class MetricsWriter(JsonLines):
    """metrics.jsonl of a run: every line has all of `METRIC_NAMES`."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Append the metrics of one step; others, such as `validation_loss`, may come with them."""
        missing = [name for name in METRIC_NAMES if name not in record]
        assert not missing, f"metrics without {missing}"
        super().write(record)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a line file; a last line without its end, left by a killed run, does not count.

    A file that does not exist has no lines.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n") and line.strip():
                yield json.loads(line)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics.jsonl, oldest first."""
    return list(read_lines(path))


def _is_kept(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except json.JSONDecodeError:
        return False  # torn by a kill while it was written


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
