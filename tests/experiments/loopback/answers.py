"""Answers to the GraphQL operations of the client and of the public API, each under the operation's own name."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from tests.experiments.loopback.store import DATE, ENTITY, Artifact, Run, Store, global_id

Data = dict[str, Any]


class Answers:
    """The data of GraphQL operations. One without an answer here is a KeyError, for the server to write down.

    Args:
        store: is read and written.
        url: where uploads go.
    """

    def __init__(self, store: Store, url: str) -> None:
        self.store, self.url = store, url
        self.known: dict[str, Callable[[Data], Data]] = {
            "Viewer": self.viewer,
            "GetViewer": self.viewer,
            "GetDefaultEntity": self.viewer,
            "ServerFeaturesQuery": lambda asked: {"serverInfo": {"features": []}},
            "OrganizationCoreWeaveOrganizationID": lambda asked: {"entity": None},
            "RunStoppedStatus": lambda asked: {"project": {"run": {"stopped": False}}},
            "ArtifactType": lambda asked: {"project": {"artifact": None}},
            "UpsertBucket": self.upsert_bucket,
            "RunResumeStatus": self.resume_status,
            "CreateRunFiles": self.create_run_files,
            "CreateArtifact": self.create_artifact,
            "CreateArtifactManifest": self.create_manifest,
            "UpdateArtifactManifest": self.create_manifest,
            "CreateArtifactFiles": self.create_artifact_files,
            "CommitArtifact": self.commit_artifact,
            "UseArtifact": self.use_artifact,
            "Run": self.one_run,
            "Runs": self.runs,
            "RunFullHistory": self.one_run,
            "RunHistoryKeys": self.one_run,
            "RunSampledHistory": self.sampled_history,
            "RunParquetHistory": self.parquet_history,
            "HistoryPage": self.history_page,
            "SampledHistoryPage": lambda asked: self.sampled_history({"name": asked["run"], "specs": [asked["spec"]]}),
            "RunOutputArtifacts": lambda asked: self.artifacts_of(asked["run"], lambda each: [each.made_by]),
            "RunInputArtifacts": lambda asked: self.artifacts_of(asked["run"], lambda each: each.used_by),
            "ArtifactUsedBy": self.used_by,
            "ArtifactCreatedBy": self.created_by,
        }

    def viewer(self, asked: Data) -> Data:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        about = {"id": global_id("User", 1), "entity": ENTITY, "username": ENTITY, "name": ENTITY, "flags": "{}"}
        rest = {"email": "", "admin": False, "deletedAt": None, "apiKeys": {"edges": []}}
        return {"viewer": {**about, **rest, "teams": teams}}

    def upsert_bucket(self, asked: Data) -> Data:
        is_new = asked["name"] not in self.store.runs
        run = self.store.run(asked["name"], asked["project"])
        run.told.update({name: value for name, value in asked.items() if value is not None})
        return {"upsertBucket": {"bucket": {**run_node(run), "project": project(run.project)}, "inserted": is_new}}

    def resume_status(self, asked: Data) -> Data:
        run = self.store.runs.get(asked["name"])
        return {"model": {**project(asked["project"]), "bucket": run and resumable(run)}}

    def create_run_files(self, asked: Data) -> Data:
        files = [{"name": name, "uploadUrl": self.upload(asked["run"], name)} for name in asked["files"]]
        return {"createRunFiles": {"runID": global_id("Run", asked["run"]), "uploadHeaders": [], "files": files}}

    def create_artifact(self, asked: Data) -> Data:
        about = asked["input"]
        name = (about.get("artifactCollectionNames") or about["artifactCollectionName"].split())[0]
        kind, digest = about["artifactTypeName"], about["digest"]
        made = self.store.new_artifact(name=name, kind=kind, digest=digest, run=about["runName"])
        latest = {"id": made.id, "versionIndex": made.version} if made.is_whole else None
        return {"createArtifact": {"artifact": {**artifact_node(made), "artifactSequence": {
            "id": global_id("ArtifactCollection", name), "latestArtifact": latest}}}}  # fmt: skip

    def create_manifest(self, asked: Data) -> Data:
        identity = asked.get("artifactManifestID") or global_id("ArtifactManifest", asked["artifactID"])
        file = {"id": identity, "uploadUrl": self.upload("manifest", identity), "uploadHeaders": []}
        operation = "updateArtifactManifest" if "artifactManifestID" in asked else "createArtifactManifest"
        return {operation: {"artifactManifest": {"id": identity, "file": file}}}

    def create_artifact_files(self, asked: Data) -> Data:
        wanted = asked["input"]["artifactFiles"]
        for file in wanted:
            self.store.artifact(file["artifactID"]).files.append(file["name"])
        return {"createArtifactFiles": {"files": {"edges": [{"node": self.artifact_file(file)} for file in wanted]}}}

    def artifact_file(self, file: Data) -> Data:
        where = {"uploadUrl": self.upload(file["artifactID"], file["name"]), "storagePath": file["name"]}
        return {**where, "uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}

    def commit_artifact(self, asked: Data) -> Data:
        made = self.store.artifact(asked["artifactID"])
        made.is_whole = True
        return {"commitArtifact": {"artifact": {"id": made.id, "digest": made.digest}}}

    def use_artifact(self, asked: Data) -> Data:
        about = asked["input"]
        self.store.artifact(about["artifactID"]).used_by.append(about["runName"])
        return {"useArtifact": {"artifact": {"id": about["artifactID"]}}}

    def one_run(self, asked: Data) -> Data:
        run = self.store.runs.get(asked["name"])
        return {"project": {"run": run and run_node(run)}}

    def runs(self, asked: Data) -> Data:
        filters = json.loads(asked.get("filters") or "{}")
        found = [run for run in self.store.runs.values() if run.project == asked["project"] and fits(run, filters)]
        start, size = int(asked.get("cursor") or 0), asked.get("perPage") or 50
        page = [
            {"node": run_node(run), "cursor": str(start + i)} for i, run in enumerate(found[start : start + size], 1)
        ]
        info = {"endCursor": str(start + len(page)), "hasNextPage": start + size < len(found)}
        listed = {"edges": page, "pageInfo": info}
        return {"project": {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": listed}}

    def sampled_history(self, asked: Data) -> Data:
        rows = self.store.runs[asked["name"]].history
        specs = [json.loads(spec)["keys"] for spec in asked["specs"]]
        return {"project": {"run": {"sampledHistory": [with_keys(rows, keys) for keys in specs]}}}

    def parquet_history(self, asked: Data) -> Data:
        rows, keys = self.store.runs[asked["runName"]].history, asked["liveKeys"]
        live = [row for row in rows if all(key in row for key in keys)]
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": live}}}}

    def history_page(self, asked: Data) -> Data:
        rows = self.store.runs[asked["run"]].history
        page = [json.dumps(row) for row in rows if asked["minStep"] <= row["_step"] < asked["maxStep"]]
        return {"project": {"run": {"history": page}}}

    def artifacts_of(self, run: str, whose: Callable[[Artifact], list[str]]) -> Data:
        found = [each for each in self.store.artifacts if run in whose(each)]
        return {"project": {"run": {"artifacts": connection(map(artifact_node, found))}}}

    def used_by(self, asked: Data) -> Data:
        runs = self.store.artifact(asked["id"]).used_by
        return {"artifact": {"usedBy": connection(run_node(self.store.runs[name]) for name in runs)}}

    def created_by(self, asked: Data) -> Data:
        return {"artifact": {"createdBy": run_node(self.store.runs[self.store.artifact(asked["id"]).made_by])}}

    def upload(self, *parts: str) -> str:
        return "/".join((self.url, "upload", *parts))


def project(name: str) -> Data:
    """A project and its owner."""
    owner = {"id": global_id("Entity", ENTITY), "name": ENTITY}
    return {"id": global_id("Project", "v1", name, ENTITY), "internalId": "1", "name": name, "entity": owner}


def run_node(run: Run) -> Data:
    """A run with all of its fields."""
    told, history = run.told, run.history
    keys = {name: {"typeCounts": [{"type": "number"}]} for row in history for name in row}
    return {
        "__typename": "Run", "id": global_id("Run", "v1", run.id, run.project, ENTITY), "name": run.id,
        "displayName": told.get("displayName") or run.id, "project": project(run.project), "projectId": "1",
        "config": told.get("config") or "{}", "summaryMetrics": json.dumps(run.summary), "systemMetrics": "{}",
        "group": told.get("groupName"), "jobType": told.get("jobType"), "tags": told.get("tags") or [],
        "notes": told.get("notes"), "description": None, "commit": None, "sweepName": None, "state": run.state,
        "user": {"name": ENTITY, "username": ENTITY}, "readOnly": False, "createdAt": DATE, "heartbeatAt": DATE,
        "history": [json.dumps(row) for row in history], "events": [], "historyLineCount": len(history),
        "historyKeys": {"keys": keys, "lastStep": history[-1]["_step"] if history else -1, "sets": []},
    }  # fmt: skip


def resumable(run: Run) -> Data:
    """What a client needs to go on with a run."""
    tail = json.dumps([json.dumps(row) for row in run.history[-1:]])
    counts = {"eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]", "historyTail": tail}
    return {**run_node(run), **counts, "wandbConfig": json.dumps({"t": 1})}


def artifact_node(artifact: Artifact) -> Data:
    """An artifact with all of its fields."""
    sequence = {"__typename": "ArtifactSequence", "name": artifact.name, "project": project("unplateau")}
    return {
        "__typename": "Artifact", "id": artifact.id, "artifactSequence": sequence, "versionIndex": artifact.version,
        "artifactType": {"name": artifact.kind}, "description": None, "metadata": None, "ttlDurationSeconds": -2,
        "ttlIsInherited": True, "tags": [], "historyStep": None, "size": 1, "digest": artifact.digest,
        "state": "COMMITTED" if artifact.is_whole else "PENDING", "commitHash": None, "createdAt": DATE,
        "fileCount": len(artifact.files), "updatedAt": None, "aliases": [],
    }  # fmt: skip


def connection(nodes: Iterable[Data]) -> Data:
    """A list of nodes on one page."""
    edges = [{"node": node} for node in nodes]
    return {"totalCount": len(edges), "edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}


def with_keys(rows: list[Data], keys: list[str]) -> list[Data]:
    """The rows that have all of the keys, cut down to them."""
    return [{key: row[key] for key in keys} for row in rows if all(key in row for key in keys)]


def fits(run: Run, filters: Data) -> bool:
    """Whether a run is meant by filters: fields that must be equal, and lists of them under "$and" and "$or"."""

    def holds(name: str, wanted: Any) -> bool:
        if name == "$and":
            return all(fits(run, each) for each in wanted)
        if name == "$or":
            return any(fits(run, each) for each in wanted)
        if name.startswith("config."):
            return run.config.get(name.split(".")[1]) == wanted
        return run_node(run).get(name) == wanted

    return all(holds(name, wanted) for name, wanted in filters.items())
