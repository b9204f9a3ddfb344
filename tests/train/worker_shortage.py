"""Trains in one process that may map only so much more memory than it has once everything is imported."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
from pathlib import Path

import vlmforge.train.loop  # noqa: F401 (its libraries' mappings are not to count)
from vlmforge.cli import main


def train(words: list[str], limit_bytes: int) -> dict[str, object]:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + limit_bytes, resource.RLIM_INFINITY))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = main(words)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {"code": code, "errors": errors.getvalue()}


if __name__ == "__main__":
    limit = int(sys.argv[1])
    print(json.dumps([train(words, limit) for words in json.loads(sys.argv[2])]))
