"""`vlmforge preview`: what the first step trains on, from the very loader and collator that train."""

from __future__ import annotations

import sys
from pathlib import Path

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.errors import EXIT_OK, ConfigError, Problem


def run(request: Request) -> int:
    """Print the preview, and write it to `html=` as well if that is given.

    Raises:
        ConfigError: the recipe is wrong.
        DataError: the data is wrong.
    """
    html_path = _html_path(request)
    loaded = load_config(request)
    # Imported only now: with torch and transformers it takes seconds, and a mistake is answered before.
    from vlmforge.models.images import build_image_rule
    from vlmforge.models.tokenizer import build_tokenizer
    from vlmforge.preview import page, terminal
    from vlmforge.preview.reading import build_view

    tokenizer = build_tokenizer(loaded.config.model)
    image_rule = build_image_rule(loaded.config.model, tokenizer)
    view = build_view(loaded.config, loaded.batch, loaded.recipe_name, tokenizer, image_rule)
    if sys.stdout.isatty():
        terminal.print_colours(view)
    else:
        print(terminal.to_text(view))
    if html_path is not None:
        html_path.write_text(page.to_html(view), encoding="utf-8")
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
