"""The preview as one HTML page that needs no other file and asks nobody for anything.

Samples are not trusted: all their text is escaped, the page's script writes text only, and a content security policy
lets no script run but the page's own and no address be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from vlmforge.preview.figures import write_pictures
from vlmforge.preview.lint import Note, find_runs
from vlmforge.preview.view import ShownRow, ShownSample, StepView

MAX_MICRO_BATCHES = 64
_LEGEND = """\
<p class="legend"><span class="t">trained</span> <span>not trained</span> <span class="s">special</span>
<span class="s t">special, trained</span> <span class="m">image</span>
<span class="soft">Point at a token, or tab to a sample and use the arrow keys (n: next trained stretch).</span></p>"""
# Signs for what cannot be seen; the line end itself stays, so that the text breaks and copies as it is.
_SIGNS = {"\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5", "\u200b": "\u2423", "\ufeff": "\u2423"}


def to_html(view: StepView) -> str:
    """The whole page."""
    style, script = _read_part("page.css"), _read_part("page.js")
    body = "\n".join([*_write_head(view), "<main>", *_write_rows(view), "</main>", *_write_detail()])
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_write_policy(style, script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(view.name)}: preview of step 1</title>
<style>{style}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{_write_data(view)}</script>
<script>{script}</script>
</body>
</html>
"""


def _read_part(name: str) -> str:
    return files("vlmforge.preview").joinpath(name).read_text(encoding="utf-8")


def _write_policy(style: str, script: str) -> str:
    """Nothing is loaded, and nothing runs but these two parts, known by their sums."""
    style_sum, script_sum = (
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_sum}'; script-src 'sha256-{script_sum}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _write_data(view: StepView) -> str:
    """Numbers for the script, as JSON in which no tag can be closed or opened."""
    shown = [sample for sample in view.samples if sample.pieces]
    data: dict[str, Any] = {
        "trained": view.num_label_tokens,
        "vocabulary": view.vocabulary,
        "samples": [
            {
                "id": sample.sample_id,
                "ids": sample.ids.tolist(),
                "positions": sample.positions.tolist(),
                "weights": [float(f"{weight:.6g}") for weight in sample.weights.tolist()],
            }
            for sample in shown
        ],
    }
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _write_head(view: StepView) -> Iterator[str]:
    """Name, numbers, settings and notes."""
    yield f'<header><h1>{escape(view.name)} <span class="soft">step 1</span></h1>'
    yield '<p class="soft">What the model is trained on, read back from the collated batch.</p>'
    yield '<dl class="tiles">'
    share = view.num_label_tokens / max(1, view.num_tokens)
    yield _write_tile("rows", f"{len(view.rows):,}", f"{view.fill_ratio:.1%} full")
    yield _write_tile("samples", f"{len(view.samples):,}")
    yield _write_tile("tokens", f"{view.num_tokens:,}")
    yield _write_tile("trained", f"{view.num_label_tokens:,}", f"{share:.1%}")
    if view.num_images:
        yield _write_tile("images", f"{view.num_images:,}")
    yield _write_tile(
        "micro-batches",
        f"{len(view.micro_batches):,}",
        f"on {_count(len({b.rank for b in view.micro_batches}), 'rank')}",
    )
    yield "</dl>"
    settings = (f"<li><span class='soft'>{escape(key)}</span> {escape(value)}</li>" for key, value in view.settings)
    yield f'<ul class="settings">{"".join(settings)}</ul>'
    yield from _write_notes(view)
    yield from _write_counts(view)
    yield f"{_LEGEND}</header>"


def _write_tile(name: str, value: str, aside: str = "") -> str:
    return f"<div><dt>{name}</dt><dd>{value} <small>{aside}</small></dd></div>"


def _write_notes(view: StepView) -> Iterator[str]:
    """All notes, linked to the samples they are about."""
    notes = view.all_notes()
    if not notes:
        yield '<p class="fine">Nothing to look at: every sample has trained tokens, and its end is trained.</p>'
        return
    numbers = {sample.sample_id: k for k, sample in reversed([*enumerate(s for s in view.samples if s.pieces)])}
    yield f'<section class="notes"><h2>{len(notes)} to look at</h2><ul>'
    yield from (f"<li>{_write_note(note, numbers)}</li>" for note in notes)
    yield "</ul></section>"


def _write_note(note: Note, numbers: dict[str, int]) -> str:
    """A note behind a link to its sample, if that is on the page."""
    name, text = escape(note.sample_id), escape(note.text)
    if not name:
        return text
    return (
        f'<a href="#s{numbers[note.sample_id]}">{name}</a>: {text}' if note.sample_id in numbers else f"{name}: {text}"
    )


def _write_counts(view: StepView) -> Iterator[str]:
    """Tables by source and by micro-batch."""
    sources = (
        (name, c.samples, c.tokens, c.label_tokens, c.truncated, c.dropped, c.bad) for name, c in view.sources.items()
    )
    heads = ("source", "samples", "tokens", "trained", "truncated", "dropped", "bad")
    yield from _write_table("Counts by source", heads, sources, is_open=len(view.sources) > 1)
    batches = [
        (f"rank {b.rank}, {b.number}", b.num_rows, b.num_samples, b.num_tokens, b.num_label_tokens, b.num_images)
        for b in view.micro_batches
    ]
    heads = ("micro-batch", "rows", "samples", "tokens", "trained", "images")
    yield from _write_table("Counts by micro-batch", heads, batches[:MAX_MICRO_BATCHES], is_open=False)
    if len(batches) > MAX_MICRO_BATCHES:
        yield f'<p class="soft">{len(batches) - MAX_MICRO_BATCHES} more micro-batches</p>'


def _write_table(title: str, heads: Sequence[str], lines: Iterable[Sequence[Any]], is_open: bool) -> Iterator[str]:
    """A table that can be folded."""
    yield f'<details{" open" if is_open else ""}><summary>{title}</summary><div class="wide"><table><tr>'
    yield "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr>"
    for line in lines:
        cells = (f"{cell:,}" if isinstance(cell, int) else escape(str(cell)) for cell in line)
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</table></div></details>"


def _write_rows(view: StepView) -> Iterator[str]:
    """The rows whose text is shown, then what is left out."""
    number = 0
    for row in view.rows:
        samples = [sample for sample in row.samples if sample.pieces]
        if not samples:
            continue
        yield f'<section class="row" aria-label="row {row.number}"><header><h3>Row {row.number}</h3>'
        yield f'<p class="soft">{_describe_row(row, view.seq_len)}</p>{_write_map(row, view.seq_len)}</header>'
        for sample in samples:
            yield _write_sample(sample, number)
            number += 1
        yield "</section>"
    num_hidden = len(view.samples) - number
    if num_hidden:
        yield f'<p class="soft">{num_hidden:,} more samples in this step are counted above and not shown.</p>'


def _describe_row(row: ShownRow, seq_len: int) -> str:
    """Counts and place of a row."""
    count = _count(len(row.samples), "sample")
    counts = f"{row.num_tokens:,} of {seq_len:,} tokens &middot; {row.num_label_tokens:,} trained"
    return f"{count} &middot; {counts} &middot; rank {row.rank}, micro-batch {row.micro_batch}"


def _count(number: int, name: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {name}{'s' * (number != 1)}"


def _write_map(row: ShownRow, seq_len: int) -> str:
    """The row as a strip: where samples begin, and what is trained."""
    parts = [f'<rect class="room" width="{seq_len}" height="10"/>']
    start = 0
    for sample in row.samples:
        parts.append(f'<rect class="text" x="{start}" width="{sample.num_tokens}" height="10"/>')
        for image in sample.images:
            parts.append(f'<rect class="image" x="{start + image.start}" width="{image.num_tokens}" height="10"/>')
        for first, stop in find_runs(sample.weights != 0):
            parts.append(f'<rect class="trained" x="{start + first}" width="{stop - first}" height="10"/>')
        start += sample.num_tokens
    border, start = max(1, seq_len // 600), 0
    for sample in row.samples[:-1]:
        start += sample.num_tokens
        parts.append(f'<rect class="border" x="{start}" width="{border}" height="10"/>')
    label = f"{len(row.samples)} samples; trained stretches are green, images brown"
    head = f'<svg class="map" viewBox="0 0 {seq_len} 10" preserveAspectRatio="none" role="img" aria-label="{label}">'
    return f"{head}{''.join(parts)}</svg>"


def _write_sample(sample: ShownSample, number: int) -> str:
    """One sample with its border; in one line, because the tokens keep their spaces."""
    name = escape(sample.sample_id)
    notes = "".join(f'<p class="note">{escape(note.text)}</p>' for note in sample.notes)
    return (
        f'<article class="sample" id="s{number}"><header><h4>{name}</h4>'
        f'<p class="soft">{_describe_sample(sample)}</p>{notes}</header>'
        f'<div class="body">{write_pictures(sample)}'
        f'<div class="tokens" tabindex="0" role="group" aria-label="tokens of {name}" data-k="{number}">'
        f"{''.join(_write_tokens(sample))}</div></div></article>"
    )


def _describe_sample(sample: ShownSample) -> str:
    """Its counts."""
    images = f" &middot; {_count(len(sample.images), 'image')}" if sample.images else ""
    return f"{sample.num_tokens:,} tokens &middot; {sample.num_label_tokens:,} trained{images}"


def _write_tokens(sample: ShownSample) -> Iterator[str]:
    """A chip for every piece of text."""
    at = 0
    for piece in sample.pieces:
        kind = "m" if piece.image else "s" * bool(sample.special[at])
        marks = f"{kind} {'t' * bool(sample.weights[at] != 0)}".strip()
        attributes = f' class="{marks}"' if marks else ""
        if piece.num_tokens > 1:
            attributes += f' data-n="{piece.num_tokens}"'
        text = write_text(piece.text)
        if piece.image:
            attributes += f' data-image="{piece.image}"'
            text = f"image {piece.image}: {_count(piece.num_tokens, 'token')}"
        yield f"<span{attributes}>{text}</span>"
        at += piece.num_tokens


def write_text(text: str) -> str:
    """Text as markup: escaped, and what cannot be seen behind a sign."""
    return "".join(_write_character(character) for character in text)


def _write_character(character: str) -> str:
    if character in _SIGNS:
        return f'<i class="sign">{_SIGNS[character]}</i>' + ("\n" if character == "\n" else "")
    if character.isprintable():
        return escape(character)
    return f'<i class="sign">\\u{ord(character):04x}</i>'


def _write_detail() -> Iterator[str]:
    """Where the script says what a token is."""
    help_text = "Point at a token to see its id, position and loss weight."
    yield f'<aside id="detail" aria-live="polite"><p>{help_text}</p></aside>'
