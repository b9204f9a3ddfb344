"""`vlmforge preview`: what the first step trains on, from the very loader and collator that train.

Shows every sample's tokens as the model gets them, the trained ones marked, special tokens and line ends visible,
and a border with the sample's id wherever a packed row goes on with another sample. Below stand the things that
are worth a second look. On a terminal trained tokens are green; elsewhere they stand in `[[` and `]]`.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from vlmforge.commands.configuring import LoadedRecipe, load_config
from vlmforge.commands.request import Request
from vlmforge.errors import EXIT_OK, ConfigError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from vlmforge.data.collate import Batch
    from vlmforge.data.loader import StepBatch

MAX_SAMPLES = 12


@dataclass(frozen=True)
class ShownSample:
    """One sample as it is shown.

    Attributes:
        sample_id: `source#index`.
        row: number of its row in the step, from 1.
        num_tokens: its tokens.
        num_label_tokens: those of them that are trained.
        pieces: runs of text with whether they are trained.
        is_end_trained: whether the last trained token is one that ends a turn.
    """

    sample_id: str
    row: int
    num_tokens: int
    num_label_tokens: int
    pieces: tuple[tuple[str, bool], ...]
    is_end_trained: bool


@dataclass(frozen=True)
class Preview:
    """The first step, ready to be written in any form."""

    header: tuple[str, ...]
    samples: tuple[ShownSample, ...]
    num_hidden: int
    lint: tuple[str, ...]


def run(request: Request) -> int:
    """Print the preview, and write it to `html=` as well if that is given.

    Raises:
        ConfigError: the recipe is wrong.
        DataError: the data is wrong.
    """
    html_path = _html_path(request)
    loaded = load_config(request)
    preview = build_preview(loaded)
    if sys.stdout.isatty():
        _print_colours(preview)
    else:
        print(to_text(preview))
    if html_path is not None:
        html_path.write_text(to_html(preview, loaded.recipe_name), encoding="utf-8")
        print(f"written to {html_path}")
    return EXIT_OK


def _html_path(request: Request) -> Path | None:
    """Where the page goes, told before anything is loaded."""
    if request.one("html") is None:
        return None
    path = Path(request.required("html", "preview.html"))
    if not path.parent.is_dir() or path.is_dir():
        what = (
            f"html = {path} cannot be written: " + ("it is" if path.is_dir() else f"{path.parent} is not") + " a folder"
        )
        raise ConfigError(Problem(what, f"command line: html={path}", f"html={path.stem or 'preview'}.html"))
    return path


def build_preview(loaded: LoadedRecipe) -> Preview:
    """Load the first step of a recipe.

    Raises:
        DataError: a sample is bad, or there is none.
    """
    from vlmforge.data.loader import build_train_loader
    from vlmforge.data.template import marker_ids
    from vlmforge.models.tokenizer import build_tokenizer

    config = loaded.config
    tokenizer = build_tokenizer(config.model)
    # One row a micro-batch, so that the borders of rows can be seen.
    num_rows = config.stage.global_batch_size
    step = next(iter(build_train_loader(config, tokenizer, 0, 1, num_rows)))
    endings = marker_ids(tokenizer)
    rows = [batch for batch in step.micro_batches if batch.num_tokens]
    samples = [shown for number, batch in enumerate(rows, 1) for shown in _show_row(batch, number, tokenizer, endings)]
    return Preview(
        header=tuple(_describe_step(loaded, step, len(rows))),
        samples=tuple(samples[:MAX_SAMPLES]),
        num_hidden=max(0, len(samples) - MAX_SAMPLES),
        lint=tuple(_find_lint(step, samples)),
    )


def _describe_step(loaded: LoadedRecipe, step: StepBatch, num_rows: int) -> Iterator[str]:
    """The numbers of the step."""
    stage = loaded.config.stage
    yield f"{loaded.recipe_name}, step 1: {num_rows} rows, {len(step.sample_ids)} samples, {step.num_tokens} tokens"
    if num_rows:
        fill = step.num_tokens / (num_rows * stage.seq_len)
        yield f"rows are filled to {fill:.1%} of seq_len {stage.seq_len}, packing {stage.packing}"
    if step.num_tokens:
        share = step.num_label_tokens / step.num_tokens
        yield f"{step.num_label_tokens} tokens are trained ({share:.1%}), labels {stage.labels}"


def _show_row(
    batch: Batch, row: int, tokenizer: PreTrainedTokenizerBase, endings: frozenset[int]
) -> Iterator[ShownSample]:
    """The samples of a row, read back from its tensors."""
    ids, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
    borders = batch.cu_seq_lens.tolist()
    for sample_id, start, stop in zip(batch.sample_ids, borders, borders[1:], strict=False):
        # The label at t is the token at t + 1, so a token is trained if the place before it has a label.
        is_trained = [False] + [label >= 0 for label in labels[start : stop - 1]]
        tokens = list(zip(ids[start:stop], is_trained, strict=True))
        trained = [token for token, is_label in tokens if is_label]
        pieces = tuple(
            (str(tokenizer.decode([token for token, _ in run], skip_special_tokens=False)), is_label)
            for is_label, run in ((key, list(group)) for key, group in groupby(tokens, key=lambda pair: pair[1]))
        )
        is_end_trained = bool(trained) and trained[-1] in endings
        yield ShownSample(sample_id, row, len(tokens), len(trained), pieces, is_end_trained)


def _find_lint(step: StepBatch, samples: list[ShownSample]) -> Iterator[str]:
    """Things to look at; none if all is well."""
    for name, counts in sorted(step.ledger.sources.items()):
        told = {
            "left out as too long": counts.dropped,
            "left out as bad": counts.bad,
            "cut at their end": counts.truncated,
        }
        yield from (f"{name}: {what} in this step: {count}" for what, count in told.items() if count)
    if step.ledger.bad_ids:
        yield f"bad samples: {', '.join(step.ledger.bad_ids)}"
    for sample in samples:
        if not sample.num_label_tokens:
            yield f"{sample.sample_id}: nothing of it is trained"
        elif not sample.is_end_trained:
            yield f"{sample.sample_id}: its end marker is not trained, so it does not teach to stop"


def show_line_ends(text: str) -> str:
    """The text with its line ends visible."""
    return text.replace("\r", "\\r").replace("\t", "\\t").replace("\n", "\\n\n")


def _title(sample: ShownSample) -> str:
    """The border above a sample."""
    numbers = f"{sample.num_tokens} tokens, {sample.num_label_tokens} trained"
    return f"row {sample.row} | {sample.sample_id} | {numbers}"


def _closing(preview: Preview) -> Iterator[str]:
    """What stands below the samples."""
    if preview.num_hidden:
        yield f"{preview.num_hidden} more samples in this step"
    yield from (f"look: {line}" for line in preview.lint)
    if not preview.lint:
        yield "every sample has trained tokens, and its end is trained"


def to_text(preview: Preview) -> str:
    """Plain text; trained tokens stand in `[[` and `]]`."""
    lines = [*preview.header, "trained tokens stand in [[ and ]]", ""]
    for sample in preview.samples:
        marked = (f"[[{text}]]" if is_label else text for text, is_label in sample.pieces)
        lines += [f"--- {_title(sample)} ---", show_line_ends("".join(marked)).rstrip("\n"), ""]
    return "\n".join([*lines, *_closing(preview)])


def _print_colours(preview: Preview) -> None:
    """The same on a terminal, trained tokens in green."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in preview.header:
        console.print(Text(line, style="bold"))
    console.print(Text("trained tokens are green", style="green"))
    for sample in preview.samples:
        console.rule(Text(_title(sample)), align="left")
        text = Text()
        for piece, is_label in sample.pieces:
            text.append(show_line_ends(piece), style="bold green" if is_label else "dim")
        console.print(text)
    for line in _closing(preview):
        console.print(Text(line, style="yellow" if line.startswith("look:") else ""))


_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #ccc; padding: 0.7em; color: #555; }
mark { background: #c8f0cf; color: #053b12; }
h2 { font-size: 1em; margin: 1.5em 0 0.3em; }
.look { color: #a04000; }
"""


def to_html(preview: Preview, name: str) -> str:
    """One page that needs no other file; trained tokens are marked."""
    body = [f"<h1>{html.escape(name)}</h1>"]
    body += [f"<p>{html.escape(line)}</p>" for line in preview.header]
    body.append("<p><mark>trained tokens</mark> are marked</p>")
    for sample in preview.samples:
        pieces = ((html.escape(show_line_ends(text)), is_label) for text, is_label in sample.pieces)
        text = "".join(f"<mark>{piece}</mark>" if is_label else piece for piece, is_label in pieces)
        body.append(f"<h2>{html.escape(_title(sample))}</h2>\n<pre>{text}</pre>")
    for line in _closing(preview):
        body.append(f'<p class="{"look" if line.startswith("look:") else "note"}">{html.escape(line)}</p>')
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f"<title>{html.escape(name)}: preview</title><style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )
