"""Runs several commands in one process that knows the hub by HF_ENDPOINT, and prints what each said."""

from __future__ import annotations

import contextlib
import io
import json
import sys

from vlmforge.cli import main


def run(words: list[str]) -> dict[str, object]:
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main(words)
    return {"code": code, "output": output.getvalue(), "errors": errors.getvalue()}


if __name__ == "__main__":
    print(json.dumps([run(words) for words in json.loads(sys.argv[1])]))
