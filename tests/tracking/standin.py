"""A stand-in for a W&B server, on loopback: it holds what a client sends, run by run, and answers what it asks."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Literal

KEY = "k" * 40
ENTITY = "someone"
Answer = dict[str, Any]
Failure = int | Literal["hang", "die"]  # an HTTP status; never answering; no server any more from here on


class Died(Exception):
    """The server has gone; who asked gets no answer."""


@dataclass
class Run:
    """What the server holds of one run."""

    name: str = ""
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    program: str | None = None
    config: Answer = field(default_factory=dict)
    history: list[Answer] = field(default_factory=list)
    summary: Answer = field(default_factory=dict)
    exit_code: int | None = None
    times_begun: int = 0


class StandIn:
    """A running server; `address` is its WANDB_BASE_URL. Requests that end in `failing`, where it isn't None, meet `failure`."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Answer] = {}  # what was asked for, by id
        self.files: dict[str, bytes] = {}  # of artifacts
        self.requests: list[str] = []  # GraphQL operations by name, others by method and path
        self.bodies = b""
        self.views: dict[str, Answer] = {}  # saved, by the name that W&B knows them by
        self.failing: str | None = None
        self.failure: Failure = 503  # the client goes on trying
        self._closed = Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes, authorization: str) -> tuple[int, Answer]:
        """HTTP status and JSON for a request."""
        asked = json.loads(body) if path == "/graphql" else {}
        named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"]) if asked else None
        operation = named[1] if named else f"{method} {path}"
        self.requests.append(operation)
        self.bodies += body
        if self.failing is not None and operation.endswith(self.failing):
            if self.failure == "die":
                self.close()
                raise Died
            if self.failure == "hang":
                self._closed.wait()
                raise Died
            return self.failure, {}
        if path.startswith("/storage/"):  # as on a real server, the address itself is the permission
            self.files[path.removeprefix("/storage/")] = body
        elif authorization != "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode():
            return 401, {}
        elif asked:
            return 200, {"data": self._operation(operation, asked.get("variables") or {})}
        elif path.endswith("/file_stream"):
            self._file_stream(self.runs[path.split("/")[-2]], json.loads(body))
        return 200, {}

    def _operation(self, operation: str, given: Answer) -> Answer:
        match operation:
            case "Viewer":
                return {
                    "viewer": {
                        "id": "1",
                        "entity": ENTITY,
                        "username": ENTITY,
                        "email": "",
                        "flags": "{}",
                        "teams": None,
                    }
                }
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "RunResumeStatus":
                return {"model": {**_project(given["project"]), "bucket": self._resumed(given["name"])}}
            case "Run":
                run, name = self.runs[given["name"]], given["name"]
                summary = json.dumps(run.summary)
                return {"project": {"run": {"id": name, "name": name, "state": "finished", "summaryMetrics": summary}}}
            case "UpsertBucket" if "summaryMetrics" in given and "name" not in given:  # afterwards
                self.runs[given["id"]].summary = json.loads(given["summaryMetrics"])
                return {"upsertBucket": {"bucket": {"id": given["id"]}}}
            case "UpsertBucket":
                return {"upsertBucket": self._upsert(given)}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.address}/storage/{name}"} for name in given["files"]]
                return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
            case "View":
                found = [view for name, view in self.views.items() if name == given["viewName"]]
                return {"project": {"allViews": {"edges": [{"node": view} for view in found]}}}
            case "UpsertView2":
                view = {"id": f"id of {given['name']}", **given}
                assert given.get("id") == self.views.get(given["name"], {}).get("id")  # else there were two of one name
                self.views[given["name"]] = view
                return {"upsertView": {"view": view, "inserted": "id" not in given}}
        return self._artifact_operation(operation, given)

    def _artifact_operation(self, operation: str, given: Answer) -> Answer:
        match operation:
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "CreateArtifact":
                asked = given["input"]
                state = "COMMITTED" if asked["digest"] in self.artifacts else "PENDING"
                self.artifacts[asked["digest"]] = asked
                artifact = {"id": asked["digest"], "state": state, "artifactSequence": {"latestArtifact": None}}
                return {"createArtifact": {"artifact": artifact}}
            case "CreateArtifactManifest" | "UpdateArtifactManifest":
                file = {"id": "1", "uploadUrl": f"{self.address}/storage/manifest", "uploadHeaders": []}
                return {operation[0].lower() + operation[1:]: {"artifactManifest": {"id": "1", "file": file}}}
            case "CreateArtifactFiles":
                nodes = [self._artifact_file(asked) for asked in given["input"]["artifactFiles"]]
                return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": given["artifactID"]}}}
            case "ArtifactByID":
                return {"artifact": _artifact(self.artifacts[given["id"]])}
        raise NotImplementedError(operation)

    def _artifact_file(self, asked: Answer) -> Answer:
        return {
            "storagePath": asked["name"],
            "uploadUrl": f"{self.address}/storage/{asked['name']}",
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": asked["artifactID"]},
        }

    def _resumed(self, name: str) -> Answer | None:
        """What a client needs to go on with a run; None where there is none."""
        if name not in self.runs:
            return None
        run = self.runs[name]
        return {
            "id": name,
            "name": name,
            "displayName": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps(run.config),
            "historyLineCount": len(run.history),
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "tags": run.tags,
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),  # by this the client knows that the run has begun
        }

    def _upsert(self, given: Answer) -> Answer:
        run = self.runs.setdefault(given["name"], Run())
        inserted = run.times_begun == 0
        if given["displayName"]:  # the first of a session
            run.name, run.group, run.job_type = given["displayName"], given["groupName"], given["jobType"]
            run.tags, run.program, run.times_begun = given["tags"], given["program"], run.times_begun + 1
        run.config |= json.loads(given["config"] or "{}")
        bucket = {
            "id": given["name"],
            "name": given["name"],
            "displayName": run.name,
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": _project(given["project"]),
            "historyLineCount": len(run.history),
        }
        return {"bucket": bucket, "inserted": inserted}

    def _file_stream(self, run: Run, sent: Answer) -> None:
        files = sent.get("files", {})
        if rows := files.get("wandb-history.jsonl"):
            run.history[rows["offset"] :] = [json.loads(row) for row in rows["content"]]
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][0])
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no event."""


def _handler(standin: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, content = standin.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            except Died:
                self.close_connection = True
                return
            reply = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


def _project(name: str) -> Answer:
    return {"id": "1", "internalId": "1", "name": name, "entity": {"id": "1", "name": ENTITY}}


def _artifact(asked: Answer) -> Answer:
    collection = {"name": asked["artifactCollectionName"], "project": _project(asked["projectName"])}
    return {
        "__typename": "Artifact",
        "id": asked["digest"],
        "artifactSequence": {"__typename": "ArtifactSequence", **collection},
        "versionIndex": 0,
        "artifactType": {"name": asked["artifactTypeName"]},
        "description": None,
        "metadata": None,
        "ttlDurationSeconds": -2,
        "ttlIsInherited": False,
        "tags": [],
        "historyStep": None,
        "state": "COMMITTED",
        "size": 1,
        "digest": asked["digest"],
        "commitHash": "1",
        "fileCount": 1,
        "createdAt": "2026-01-01T00:00:00",
        "updatedAt": None,
        "aliases": [],
    }
