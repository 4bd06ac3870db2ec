"""A W&B server on the loopback: as much as the client needs to begin, record, resume and end a run online.

Its answers were found by what wandb 0.31 asks; each request is noted, so that tests see the messages.
"""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "lab"


@dataclass
class StoredRun:
    """What the server holds of a run.

    Attributes:
        config: its config, as JSON.
        history: line number -> values of a step.
        summary: last summary.
        exits: exit code of each process that ended.
        preempting: whether a process said that it will be continued.
    """

    config: str = "{}"
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: str = "{}"
    exits: list[int] = field(default_factory=list)
    preempting: bool = False
    given: dict[str, Any] = field(default_factory=dict)

    def column(self, name: str) -> list[Any]:
        """All values of a metric, in the order of the lines."""
        return [self.history[line][name] for line in sorted(self.history) if name in self.history[line]]


@dataclass
class WandbServer:
    """What the stand-in holds.

    Attributes:
        runs: id -> run.
        files: address of an upload -> content.
        artifacts: the variables of each artifact that was made or used.
        alerts: title and text of each alert.
        asked: name of each GraphQL operation.
    """

    runs: dict[str, StoredRun] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[tuple[str, str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def wandb_server() -> Iterator[tuple[WandbServer, str]]:
    """The server and its address, inside the block."""
    server = WandbServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_state": server}))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_state: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.say({})

    def do_PUT(self) -> None:
        self.server_state.files[self.path] = self.body()
        self.say({})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/graphql":
            return self.graphql(json.loads(body))
        if found := re.fullmatch(r"/files/\w+/[^/]+/([^/]+)/file_stream", self.path):
            self.stream(self.server_state.runs[found[1]], json.loads(body))
        return self.say({"exitcode": None, "limits": {}})

    def graphql(self, request: dict[str, Any]) -> None:
        name = request.get("operationName") or re.search(r"(?:query|mutation)\s*(\w*)", request["query"])[1]
        self.server_state.asked.append(name)
        given = request.get("variables") or {}
        answer = getattr(self, f"on_{name}", lambda _: {})(given)
        self.say({"data": answer})

    def on_RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.server_state.runs.get(given["name"])
        bucket = None if run is None else self.bucket(given["name"])
        return {
            "model": {
                "id": "p",
                "name": given["project"],
                "entity": {"id": "e", "name": ENTITY},
                "bucket": bucket,
            }
        }

    def on_UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        new = given["name"] not in self.server_state.runs
        run = self.server_state.runs.setdefault(given["name"], StoredRun())
        run.config = given["config"] or run.config
        run.given |= {key: value for key, value in given.items() if value is not None}
        bucket = self.bucket(given["name"])
        bucket["project"] = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}}
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def on_CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": n, "uploadUrl": self.address(f"upload/{given['run']}/{n}")} for n in given["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def on_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "v", "entity": ENTITY, "username": "me", "email": "m@lab", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}}}

    def on_NotifyScriptableRunAlert(self, given: dict[str, Any]) -> dict[str, Any]:
        self.server_state.alerts.append((given["title"], given["text"]))
        return {"notifyScriptableRunAlert": {"success": True}}

    def bucket(self, name: str) -> dict[str, Any]:
        """A run as the client reads it when it resumes."""
        run = self.server_state.runs[name]
        tail = [json.dumps(run.history[max(run.history)])] if run.history else []
        lines = max(run.history) + 1 if run.history else 0
        return {
            "id": "r",
            "name": name,
            "displayName": run.given.get("displayName", name),
            "description": "",
            "config": run.config,
            "summaryMetrics": run.summary,
            "historyLineCount": lines,
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "tags": run.given.get("tags", []),
            "notes": "",
            "sweepName": None,
            "wandbConfig": json.dumps({"t": 1}),
        }

    def stream(self, run: StoredRun, content: dict[str, Any]) -> None:
        """Numbers, as the client sends them while the run goes on."""
        for name, file in content.get("files", {}).items():
            if name == "wandb-history.jsonl":
                for number, line in enumerate(file["content"]):
                    run.history[file["offset"] + number] = json.loads(line)
            elif name == "wandb-summary.json":
                run.summary = file["content"][-1]
        run.preempting |= bool(content.get("preempting"))
        if content.get("complete"):
            run.exits.append(content["exitcode"])

    def body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def say(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address(self, path: str) -> str:
        return f"http://{self.headers['Host']}/{path}"
