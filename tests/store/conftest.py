"""A server on this machine that speaks as much of the Hugging Face hub as is needed."""

import http.server
import threading
from collections.abc import Iterator

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """files: content by path. requests: "METHOD path" in order. cut: send half of each body."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.status: int | None = None
        self.cut = False
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
                    if hub.status == 403:
                        self.send_header("X-Error-Code", "GatedRepo")
                    elif hub.status is None:
                        self.send_header(
                            "X-Error-Code", "EntryNotFound" if known else "RepoNotFound"
                        )
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hash(content) & 0xFFFFFFFF:08x}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body is None:
                    self.wfile.write(content[: len(content) // 2] if hub.cut else content)
                    if hub.cut:
                        self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
