"""A hub of one's own: a small HTTP server that answers as huggingface.co does, errors included."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

# Every repository has one commit, known by its hash, as main and as the tag v1.
COMMIT = "1f" * 20
REVISIONS = (COMMIT, "main", "v1")


@dataclass(frozen=True)
class Repo:
    """A repository: its files, and the error that keeps them back.

    Attributes:
        files: name to content.
        refuses: status and X-Error-Code of every request, or of those for files alone.
        lists: whether its metadata can be read nevertheless, as the hub's own gated models allow.
    """

    files: Mapping[str, bytes]
    refuses: tuple[int, str] | None = None
    lists: bool = False


@contextmanager
def serve_hub(repos: Mapping[str, Repo]) -> Iterator[str]:
    """Serve repositories by id; yields the endpoint, for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = _answer(repos, unquote(self.path.partition("?")[0]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


Answer = tuple[int, dict[str, str], bytes]


def _answer(repos: Mapping[str, Repo], path: str) -> Answer:
    """`/api/models/OWNER/NAME/{revision,tree}/REV` or `/OWNER/NAME/resolve/REV/FILE`."""
    is_api = path.startswith("/api/models/")
    owner, name, what, revision, *rest = path.removeprefix("/api/models").strip("/").split("/", 4)
    repo = repos.get(f"{owner}/{name}")
    if repo is None:
        return 401, {"X-Error-Code": "RepoNotFound"}, b""
    if repo.refuses is not None and not (is_api and repo.lists):
        return repo.refuses[0], {"X-Error-Code": repo.refuses[1]} if repo.refuses[1] else {}, b""
    if revision not in REVISIONS:
        return 404, {"X-Error-Code": "RevisionNotFound"}, b""
    if not is_api:
        return _file(repo.files.get("/".join(rest)))
    if what == "tree":
        listed = [{"type": "file", "path": p, "size": len(b), "oid": _digest(b)} for p, b in repo.files.items()]
        return 200, {"Content-Type": "application/json"}, json.dumps(listed).encode()
    info = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": p} for p in repo.files]}
    return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()


def _file(content: bytes | None) -> Answer:
    if content is None:
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
    return 200, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": COMMIT}, content


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
