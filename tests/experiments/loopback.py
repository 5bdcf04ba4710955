"""A W&B server of a few answers on this machine, enough for the real client to start, log and finish a run."""

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

PROJECT = {"name": "unplateau", "entity": {"id": "entity", "name": "local"}}


class Server(ThreadingHTTPServer):
    """Remembers what it was told: `runs` by id, `lines` by run and stream, `exit_codes` by run.

    After a request to /outage it hangs up on everybody.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, dict[str, Any]] = {}
        self.lines: dict[tuple[str, str], dict[int, Any]] = defaultdict(dict)
        self.exit_codes: dict[str, int] = {}
        self.is_out = False

    @property
    def url(self) -> str:
        """Where the client finds it."""
        return f"http://127.0.0.1:{self.server_port}"

    def history(self, run: str) -> list[dict[str, Any]]:
        """The rows that arrived, in order."""
        rows = self.lines[run, "wandb-history.jsonl"]
        return [json.loads(rows[number]) for number in sorted(rows)]

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL operation; nothing where the client can do without."""
        if operation == "UpsertBucket":
            return self._upserted(asked)
        if operation == "RunResumeStatus":
            return {"model": {"id": "project", **PROJECT, "bucket": None}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in asked["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        return {}

    def _upserted(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["name"]
        is_new = name not in self.runs
        self.runs.setdefault(name, {}).update({key: value for key, value in asked.items() if value is not None})
        identity = base64.b64encode(f"Run:v1:{name}:unplateau:local".encode()).decode()
        bucket = {"id": identity, "name": name, "displayName": name, "config": "{}", "historyLineCount": 0}
        return {"upsertBucket": {"bucket": {**bucket, "project": {"id": "project", **PROJECT}}, "inserted": is_new}}


class Handler(BaseHTTPRequestHandler):
    """Three kinds of requests: GraphQL, the stream of a run's files, and uploads."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        told = json.loads(self._body() or b"{}")
        if self.path == "/outage":
            self.server.is_out = True
        if self.path == "/graphql":
            operation = told.get("operationName") or ""
            return self._reply({"data": self.server.answer(operation, told.get("variables") or {})})
        if self.path.endswith("/file_stream"):
            self._remember(self.path.split("/")[-2], told)
        return self._reply({"exitcode": None, "limits": {}})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def log_message(self, *anything: Any) -> None:
        """Say nothing."""

    def _remember(self, run: str, told: dict[str, Any]) -> None:
        for stream, part in (told.get("files") or {}).items():
            for number, line in enumerate(part["content"], start=part["offset"]):
                self.server.lines[run, stream][number] = line
        if told.get("complete"):
            self.server.exit_codes[run] = told["exitcode"]

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, content: dict[str, Any]) -> None:
        if self.server.is_out and self.path != "/outage":
            self.connection.close()
            return
        body = json.dumps(content).encode()
        self.send_response(200)
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
