"""The HTTP side: GraphQL, the stream of a run's files, uploads, and the ways in which a server can fail."""

import base64
import gzip
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Literal, get_args

from tests.experiments.loopback.answers import Answers
from tests.experiments.loopback.store import Artifact, Run, Store

KEY = "k" * 40
SLOW_SECONDS = 3
Mood = Literal["answers", "hangs-up", "fails", "is-slow"]


class Server(ThreadingHTTPServer):
    """Remembers what it was told, and what it could not answer. A request to /mood/hangs-up changes its mood."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store = Store()
        self.answers = Answers(self.store, self.url)
        self.mood: Mood = "answers"
        self.unanswered: set[str] = set()
        self.lock = Lock()

    @property
    def url(self) -> str:
        """Where the client finds it."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def runs(self) -> dict[str, Run]:
        """Runs by id."""
        return self.store.runs

    @property
    def artifacts(self) -> list[Artifact]:
        """Artifacts in the order of arrival."""
        return self.store.artifacts

    def history(self, run: str) -> list[dict[str, Any]]:
        """The rows of a run that arrived, in order."""
        return self.store.runs[run].history

    @property
    def exit_codes(self) -> dict[str, int | None]:
        """How each run ended."""
        return {name: run.exit_code for name, run in self.store.runs.items()}

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL operation; an unknown one is written down and answered with nothing."""
        with self.lock:
            if operation not in self.answers.known:
                self.unanswered.add(operation)
                return {}
            return self.answers.known[operation](asked)

    def remember(self, run: str, told: dict[str, Any]) -> None:
        """A part of the stream of a run's files."""
        with self.lock:
            for stream, part in (told.get("files") or {}).items():
                for number, line in enumerate(part["content"], start=part["offset"]):
                    self.store.run(run).streams[stream][number] = line
            if told.get("complete"):
                self.store.run(run).exit_code = told["exitcode"]

    def handle_error(self, *where: Any) -> None:
        """A client that hung up is no event."""


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    server: Server
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body, parts = self._body(), self.path.strip("/").split("/")
        if parts[0] == "mood":
            assert parts[1] in get_args(Mood)
            self.server.mood = parts[1]  # type: ignore[assignment]
            return self._reply(200, {})
        if self.server.mood == "hangs-up":
            self.close_connection = True
            return None
        if self.server.mood == "is-slow":
            time.sleep(SLOW_SECONDS)
        if self.server.mood == "fails":
            return self._reply(500, {"error": "out of order"})
        return self._reply(*self._answered(parts, body))

    do_GET = do_POST = do_PUT = answer  # noqa: N815, the names that the base class calls

    def log_message(self, *anything: Any) -> None:
        """Say nothing."""

    def _answered(self, parts: list[str], body: bytes) -> tuple[int, dict[str, Any]]:
        if parts[0] == "upload":
            self.server.store.uploads["/".join(parts[1:])] = body
            return 200, {}
        if self.headers.get("Authorization") != f"Basic {base64.b64encode(f'api:{KEY}'.encode()).decode()}":
            return 401, {"errors": [{"message": "invalid API key"}]}
        told = json.loads(body or b"{}")
        if parts[-1] == "file_stream":
            self.server.remember(parts[-2], told)
            return 200, {"exitcode": None, "limits": {}}
        operation = told.get("operationName") or told.get("query", "").split("(")[0].split("{")[0].split()[-1]
        return 200, {"data": self.server.answer(operation, told.get("variables") or {})}

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers until the block ends."""
    with Server() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
