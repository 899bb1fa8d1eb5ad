"""A server on this machine that speaks as much of the Hugging Face hub as is needed."""

import hashlib
import http.server
import threading
import time
from collections.abc import Iterator

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """files: content by path. requests: "METHOD path" in order.

    status: answer every request with it. cut: send half of each body. ranges: answer part of a
    file where one is asked for. early: bytes before it where such a part begins. weak: tell of
    files that they are much the same. large: name files by their SHA-256, as the hub does large
    ones; wrong: by another one. slow: seconds before each body.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.starts: list[int] = []
        self.status: int | None = None
        self.cut = self.ranges = self.large = self.wrong = self.weak = False
        self.early = 0
        self.slow = 0.0
        self.gated = True
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(b"")

            def do_GET(self) -> None:
                self.answer(None)

            def answer(self, body: bytes | None) -> None:
                path = self.path.lstrip("/").replace("%2F", "/")
                hub.requests.append(f"{self.command} {path}")
                content = hub.files.get(path)
                if hub.status is not None or content is None:
                    self.send_response(hub.status or 404)
                    repository = "/".join(path.split("/")[:2])
                    known = any(name.startswith(repository + "/") for name in hub.files)
                    if hub.status == 403 and hub.gated:
                        self.send_header("X-Error-Code", "GatedRepo")
                    elif hub.status is None:
                        self.send_header(
                            "X-Error-Code", "EntryNotFound" if known else "RepoNotFound"
                        )
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                tag = hashlib.sha256(b"another" * hub.wrong + content).hexdigest()
                tag = tag if hub.large or hub.wrong else tag[:40]
                wanted = self.headers.get("Range") if hub.ranges else None
                if wanted and self.headers.get("If-Range") not in (None, f'"{tag}"'):
                    wanted = None
                start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
                hub.starts.append(start)
                if start and start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    start -= hub.early
                    last = len(content) - 1
                    self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
                content = content[start:]
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'{"W/" * hub.weak}"{tag}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                time.sleep(hub.slow)
                if body is None:
                    self.wfile.write(content[: len(content) // 2] if hub.cut else content)
                    if hub.cut:
                        self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # a client that hangs up is no error
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, repository: str, file: str, content: bytes) -> None:
        self.files[f"{repository}/resolve/main/{file}"] = content


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
