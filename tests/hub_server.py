"""A Hub on the loopback: as much of HTTP as huggingface_hub uses to send and get folders.

Repositories live in memory. Weights, tars and pictures are sent by LFS, as at the Hub, others in the commit.
Every request is noted.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LFS = (".safetensors", ".tar", ".jpg", ".png")


@dataclass
class Hub:
    """What the stand-in holds.

    Attributes:
        token: token that it accepts.
        repos: models/OWNER/NAME or datasets/OWNER/NAME -> path -> content.
        blobs: sha256 -> content of files sent by LFS.
        commits: repository -> the messages of its commits.
        asked: method and path of each request.
        broken: path in a repository of which only the first bytes are sent, once.
    """

    token: str = "hf_secret"
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    commits: dict[str, list[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    broken: str = ""

    def sha(self, repo: str) -> str:
        """The newest commit."""
        return hashlib.sha1(f"{repo} {len(self.commits[repo])}".encode()).hexdigest()


@contextmanager
def hub_server() -> Iterator[tuple[Hub, str]]:
    """The Hub and its address, inside the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        hub, path, body = self.hub, self.path.partition("?")[0], self.body()
        if path == "/api/validate-yaml":
            return self.say({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.say({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            content = json.loads(body)
            name = f"{content.get('organization') or 'me'}/{content['name']}"
            repo = f"{content.get('type') or 'model'}s/{name}"
            if repo in hub.repos:
                return self.say({"error": "You already created this repo", "url": self.address(name)}, 409)
            hub.repos[repo], hub.commits[repo] = {}, ["initial commit"]
            return self.say({"url": self.address(name), "name": name, "id": name})
        if found := re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)/preupload/main", path):
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular"}
                for file in json.loads(body)["files"]
            ]
            return self.say({"files": [file | {"shouldIgnore": False, "oid": None} for file in files]})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.say(
                {"transfer": "basic", "objects": [self.upload(o) for o in json.loads(body)["objects"]]}
            )
        if found := re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)/commit/main", path):
            return self.commit(found[1], body)
        return self.say({"error": f"no such address: {path}"}, 404)

    def do_PUT(self) -> None:
        self.hub.blobs[self.path.rpartition("/")[2]] = self.body()
        self.say({})

    def do_GET(self) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self.info(found[1], found[2])
        if found := re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)/tree/([^/]+)(/.*)?", path):
            content = hub.repos.get(found[1], {})
            return self.say(
                [{"type": "file", "path": n, "size": len(c), "oid": self.etag(c)} for n, c in content.items()]
            )
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.file(f"{found[1] or 'models/'}{found[2]}", found[4])
        return self.say({"error": f"no such address: {path}"}, 404)

    do_HEAD = do_GET

    def info(self, repo: str, revision: str | None) -> None:
        if repo not in self.hub.repos:
            return self.say({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if revision not in (None, "main", self.hub.sha(repo)):
            return self.say({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        files = [{"rfilename": name} for name in self.hub.repos[repo]]
        name = repo.partition("/")[2]
        return self.say(
            {"id": name, "modelId": name, "sha": self.hub.sha(repo), "siblings": files, "tags": []}
        )

    def upload(self, wanted: dict[str, object]) -> dict[str, object]:
        """LFS' answer: where to put an object, or nothing where it is here."""
        if wanted["oid"] in self.hub.blobs:
            return wanted
        return wanted | {"actions": {"upload": {"href": self.address(f"blobs/{wanted['oid']}")}}}

    def commit(self, repo: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        content = self.hub.repos[repo]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "header":
                self.hub.commits[repo].append(value["summary"])
        oid = self.hub.sha(repo)
        url = self.address(f"{repo.removeprefix('models/')}/commit/{oid}")
        self.say({"success": True, "commitOid": oid, "commitUrl": url})

    def file(self, repo: str, name: str) -> None:
        content = self.hub.repos.get(repo, {}).get(name)
        if content is None:
            return self.say({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        start = int((re.search(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{self.etag(content)}"')
        self.send_header("X-Repo-Commit", self.hub.sha(repo))
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if name == self.hub.broken:
            self.hub.broken = ""
            self.wfile.write(content[start : start + len(content) // 2])
            self.close_connection = True
            return self.connection.close()
        self.wfile.write(content[start:])
        return None

    def body(self) -> bytes:
        self.hub.asked.append(f"{self.command} {self.path}")
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def say(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def address(self, path: str) -> str:
        return f"http://{self.headers['Host']}/{path}"

    @staticmethod
    def etag(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()
