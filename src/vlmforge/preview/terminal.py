"""The preview on a terminal: trained tokens in green, special tokens and line ends visible, borders between samples.

Where the output is no terminal, trained tokens stand in `[[` and `]]` instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.text import Text

from vlmforge.preview.view import ShownImage, ShownRow, ShownSample, StepView

MAX_SAMPLES = 12
_STYLES = {
    ("text", True): "bold green",
    ("special", True): "bold black on green",
    ("text", False): "",
    ("special", False): "magenta",
    ("image", True): "bold yellow",
    ("image", False): "yellow",
}
# Control characters would be carried out by the terminal; they come from data.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}
_VISIBLE |= {ord("\n"): "\\n\n", ord("\r"): "\\r", ord("\t"): "\\t"}


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one kind: `text`, `special` or `image`, trained or not."""

    text: str
    kind: str
    is_trained: bool


def to_text(view: StepView) -> str:
    """Plain text."""
    lines = [*describe_step(view), "trained tokens stand in [[ and ]]"]
    for row, samples in _first_rows(view):
        lines += ["", f"=== {describe_row(row, view)} ==="]
        for sample in samples:
            lines += [f"--- {describe_sample(sample)} ---", _bracket(sample).rstrip("\n")]
    return "\n".join([*lines, "", *describe_rest(view)])


def print_colours(view: StepView) -> None:
    """Colours, for a terminal."""
    console = Console(highlight=False)
    for line in describe_step(view):
        console.print(Text(line, style="bold"))
    console.print(Text.assemble(("trained", "bold green"), ", ", ("special", "magenta"), ", ", ("image", "yellow")))
    for row, samples in _first_rows(view):
        console.rule(Text(describe_row(row, view), style="bold"), align="left", characters="=")
        for sample in samples:
            console.rule(Text(describe_sample(sample)), align="left", style="dim")
            console.print(_colour(sample))
    for line in describe_rest(view):
        console.print(Text(line, style="yellow" if line.startswith("look:") else ""))


def describe_step(view: StepView) -> Iterator[str]:
    """The numbers of the step, a line each."""
    settings = dict(view.settings)
    num_rows, num_samples = len(view.rows), len(view.samples)
    yield f"{make_visible(view.name)}, step 1: {num_rows} rows, {num_samples} samples, {view.num_tokens} tokens"
    if num_rows:
        yield f"rows are filled to {view.fill_ratio:.1%} of seq_len {view.seq_len}, packing {settings['stage.packing']}"
    if view.num_tokens:
        share = view.num_label_tokens / view.num_tokens
        yield f"{view.num_label_tokens} tokens are trained ({share:.1%}), labels {settings['stage.labels']}"
    if view.num_images:
        yield f"{view.num_images} images"
    tokens = [batch.num_tokens for batch in view.micro_batches]
    if len(tokens) > 1:
        num_ranks = len({batch.rank for batch in view.micro_batches})
        each = len(tokens) // num_ranks
        yield f"{len(tokens)} micro-batches, {each} a data rank, of {min(tokens)} to {max(tokens)} tokens"


def describe_row(row: ShownRow, view: StepView) -> str:
    """The border above a row."""
    where = f"rank {row.rank}, micro-batch {row.micro_batch}"
    return f"row {row.number} | {where} | {row.num_tokens} of {view.seq_len} tokens, {row.num_label_tokens} trained"


def describe_sample(sample: ShownSample) -> str:
    """The border above a sample."""
    images = f", {len(sample.images)} image{'s' * (len(sample.images) > 1)}" if sample.images else ""
    return f"{make_visible(sample.sample_id)} | {sample.num_tokens} tokens, {sample.num_label_tokens} trained{images}"


def describe_image(image: ShownImage, number: int) -> str:
    """A picture in a few words."""
    shrunk = f", made smaller {image.num_shrinks} times" if image.num_shrinks > 1 else ", made smaller once"
    size = f"{image.width} x {image.height} pixels{shrunk * bool(image.num_shrinks)}"
    frame = "" if image.frame is None else f", frame {image.frame} of a film"
    return f"image {number}{frame}: {size}, {describe_tiles(image)}{image.num_tokens} tokens"


def describe_tiles(image: ShownImage) -> str:
    """`3 x 2 tiles and the whole, `, or nothing where the picture is in one piece."""
    _, rows, columns = image.grid
    if not image.is_tiled:
        return ""
    return f"{columns} x {rows} tiles{' and the whole' * (len(image.tiles) > rows * columns)}, "


def describe_rest(view: StepView) -> Iterator[str]:
    """What stands below the samples."""
    num_shown = sum(len(samples) for _, samples in _first_rows(view))
    if num_shown < len(view.samples):
        yield f"{len(view.samples) - num_shown} more samples in this step"
    notes = view.all_notes()
    yield from (make_visible(f"look: {note}") for note in notes)
    if not notes:
        yield "every sample has trained tokens, and its end is trained"


def make_visible(text: str) -> str:
    """The text with line ends, tabs, control characters and all others that cannot be seen visible."""
    if text.isprintable():
        return text
    # Marks that turn the direction of writing, or end a line, are no control characters, and cannot be seen either.
    shown = text.translate(_VISIBLE)
    return "".join(c if c == "\n" or c.isprintable() else f"\\u{ord(c):04x}" for c in shown)


def list_runs(sample: ShownSample) -> Iterator[Run]:
    """The sample's text in runs of one kind."""
    kinds: list[tuple[str, bool, str]] = []
    at = 0
    for piece in sample.pieces:
        kind, text = "special" if sample.special[at] else "text", piece.text
        if piece.image:
            image = sample.images[piece.image - 1]
            # The end of its path: what tells two of a sample apart.
            kind, text = "image", f"[{describe_image(image, piece.image)}: {image.name.rpartition('/')[2]}]"
        kinds.append((kind, bool(sample.weights[at] != 0), text))
        at += piece.num_tokens
    for (kind, is_trained), run in groupby(kinds, key=lambda entry: entry[:2]):
        yield Run("".join(text for *_, text in run), kind, is_trained)


def _first_rows(view: StepView) -> Iterator[tuple[ShownRow, tuple[ShownSample, ...]]]:
    """The rows that are shown, each with as many of its samples as there is room for."""
    room = MAX_SAMPLES
    for row in view.rows:
        samples = tuple(sample for sample in row.samples[:room] if sample.pieces)
        room -= len(samples)
        if samples:
            yield row, samples


def _bracket(sample: ShownSample) -> str:
    """The sample with trained tokens in brackets."""
    parts: list[str] = []
    for is_trained, runs in groupby(list_runs(sample), key=lambda run: run.is_trained):
        text = make_visible("".join(run.text for run in runs))
        parts.append(f"[[{text}]]" if is_trained else text)
    return "".join(parts)


def _colour(sample: ShownSample) -> Text:
    """The sample in colours."""
    text = Text()
    for run in list_runs(sample):
        text.append(make_visible(run.text), style=_STYLES[run.kind, run.is_trained])
    return text
