"""What a W&B server is told about runs and artifacts, and what can be read from it."""

import base64
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

ENTITY = "local"
DATE = "2026-01-01T00:00:00"


@dataclass
class Run:
    """One run: `told` by the client when it began, rows by stream and line number, and how it ended."""

    id: str
    project: str
    told: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows that arrived, in order."""
        return [json.loads(line) for line in self._lines("wandb-history.jsonl")]

    @property
    def summary(self) -> dict[str, Any]:
        """The last word on every metric."""
        lines = self._lines("wandb-summary.json")
        return json.loads(lines[-1] if lines else self.told.get("summaryMetrics") or "{}")

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as the user gave it."""
        whole = json.loads(self.told.get("config") or "{}")
        return {name: value["value"] for name, value in whole.items() if name != "_wandb"}

    @property
    def metrics(self) -> dict[str, str | None]:
        """Every metric that was defined, with the metric on its x-axis.

        The client sends a list of numbered fields: 1 is the name, 2 a pattern, 5 the place of the x-axis, from one.
        """
        sent = json.loads(self.told.get("config") or "{}").get("_wandb", {}).get("value", {}).get("m", [])
        names = [each.get("1") or each.get("2") for each in sent]
        return {name: names[each["5"] - 1] if "5" in each else None for name, each in zip(names, sent, strict=True)}

    @property
    def state(self) -> str:
        """As W&B words it."""
        if self.exit_code is None:
            return "running"
        return "failed" if self.exit_code else "finished"

    def _lines(self, stream: str) -> list[str]:
        lines = self.streams[stream]
        return [lines[number] for number in sorted(lines)]


@dataclass
class Artifact:
    """One version of an artifact, the run that made it and those that used it."""

    id: str
    name: str
    version: int
    kind: str
    digest: str
    made_by: str
    used_by: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    is_whole: bool = False


@dataclass
class Store:
    """Everything: runs by id, artifacts in the order of arrival, uploaded bytes by key."""

    runs: dict[str, Run] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)

    def run(self, name: str, project: str | None = None) -> Run:
        """The run with this id, new where there is none."""
        return self.runs.setdefault(name, Run(name, project or "uncategorized"))

    def artifact(self, identity: str) -> Artifact:
        """The artifact with this id."""
        return next(each for each in self.artifacts if each.id == identity)

    def new_artifact(self, *, name: str, kind: str, digest: str, run: str) -> Artifact:
        """Another version; the one that is there, where its content is the same."""
        versions = [each for each in self.artifacts if each.name == name]
        same = next((each for each in versions if each.digest == digest), None)
        if same is not None:
            return same
        made = Artifact(global_id("Artifact", len(self.artifacts)), name, len(versions), kind, digest, run)
        self.artifacts.append(made)
        return made


def global_id(kind: str, *parts: object) -> str:
    """An identity in the form that the client takes apart."""
    return base64.b64encode(":".join(map(str, (kind, *parts))).encode()).decode()
