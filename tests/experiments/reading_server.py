"""The loopback server with a memory that the real public API can ask: runs, their settings, and what they logged."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from tests.experiments.loopback import PROJECT, Handler, Server

OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")
LONG_AGO = "2026-01-02T03:04:05Z"


class ReadingServer(Server):
    """Answers what `wandb.Api` asks about the runs that it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = ReadingHandler

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        if operation in ("Viewer", "GetDefaultEntity"):
            return {
                "viewer": {"id": "user", "entity": "local", "username": "local", "flags": "{}", "teams": {"edges": []}}
            }
        if operation in ("Run", "RunHistoryKeys"):
            return {"project": {"run": self.about(asked["name"])}}
        if operation == "Runs":
            wanted = json.loads(asked["filters"] or "{}")
            return {"project": self.page([run for run in self.runs if self.fits(run, wanted)])}
        if operation == "RunResumeStatus" and asked["name"] in self.runs:
            return {"model": {"id": "project", **PROJECT, "bucket": self.so_far(asked["name"])}}
        if operation == "RunParquetHistory":
            return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}
        if operation == "HistoryPage":
            rows = [row for row in self.history(asked["run"]) if asked["minStep"] <= row["_step"] < asked["maxStep"]]
            return {"project": {"run": {"history": [json.dumps(row) for row in rows]}}}
        return super().answer(operation, asked)

    def so_far(self, run: str) -> dict[str, Any]:
        """What a resumed run needs to go on where it was."""
        rows = self.history(run)
        tail = {"historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]"}
        lengths = {"historyLineCount": len(rows), "eventsLineCount": 0, "logLineCount": 0}
        return {**(self.about(run) or {}), **tail, **lengths, "wandbConfig": '{"t": 1}'}

    def fits(self, run: str, wanted: dict[str, Any]) -> bool:
        """Whether a run is in the group that is asked for."""
        return wanted.get("group") in (None, self.runs[run].get("groupName"))

    def page(self, runs: list[str]) -> dict[str, Any]:
        """The one page of a list of runs."""
        edges = [{"node": self.about(run), "cursor": run} for run in runs]
        info = {"endCursor": None, "hasNextPage": False}
        about = {"internalId": "7", "runCount": len(runs), "readOnly": False}
        return {**about, "runs": {"totalCount": len(runs), "edges": edges, "pageInfo": info}}

    def about(self, run: str) -> dict[str, Any] | None:
        """A run as the API wants it; None for one that nobody told about."""
        if run not in self.runs:
            return None
        told, rows = self.runs[run], self.history(run)
        state = {None: "running", 0: "finished"}.get(self.exit_codes.get(run), "failed")
        return {
            "id": base64.b64encode(run.encode()).decode(),
            "projectId": 7,
            "name": run,
            "displayName": told.get("displayName") or run,
            "state": state,
            "config": told.get("config") or "{}",
            "group": told.get("groupName"),
            "jobType": told.get("jobType"),
            "tags": told.get("tags") or [],
            "createdAt": LONG_AGO,
            "heartbeatAt": LONG_AGO,
            "historyLineCount": len(rows),
            "historyKeys": {"lastStep": max((row["_step"] for row in rows), default=-1), "keys": {}},
            "user": {"name": "local", "username": "local"},
            "summaryMetrics": "{}",
            "systemMetrics": "{}",
            **dict.fromkeys(("sweepName", "commit", "description", "notes")),
            "readOnly": False,
        }


class ReadingHandler(Handler):
    """The API names its operations in the query only, and tells a server about itself, which nobody wants to know."""

    server: ReadingServer

    def do_POST(self) -> None:  # noqa: N802
        if self.path != "/graphql":
            return self._unheard() if self.path.startswith("/sdk/") else super().do_POST()
        told = json.loads(self._body())
        named = OPERATION.search(told["query"])
        operation = told.get("operationName") or (named[1] if named else "")
        return self._reply({"data": self.server.answer(operation, told.get("variables") or {})})

    def _unheard(self) -> None:
        self._body()
        self._reply({})


@contextmanager
def serving_readers() -> Iterator[ReadingServer]:
    """A server that answers until the block ends."""
    with ReadingServer() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
