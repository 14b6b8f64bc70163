"""A local stand-in for the Hub's HTTP API: repositories in memory, enough of it to make, commit to, list and fetch."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """What the stand-in holds: `repos[kind/name][revision]` is a dict of files; `fetched` lists what was downloaded."""

    url: str = ""
    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def files(self, name: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        return self.repos[f"{kind}/{name}"][revision]

    def commit(self, name: str, files: dict[str, bytes], kind: str = "models", revision: str = "main") -> str:
        """Add files to a branch; returns the commit, under which they stay as they are now."""
        branches = self.repos.setdefault(f"{kind}/{name}", {"main": {}})
        now = {**branches.get(revision, {}), **files}
        sha = hashlib.sha1(json.dumps({k: hashlib.sha1(v).hexdigest() for k, v in sorted(now.items())}).encode())
        branches[revision] = branches[sha.hexdigest()] = now
        return sha.hexdigest()

    def sha(self, key: str, revision: str) -> str:
        branches = self.repos[key]
        return next(sha for sha, files in reversed(branches.items()) if len(sha) == 40 and files == branches[revision])


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, value: object, status: int = 200, **headers: str) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def missing(self, code: str) -> None:
            self.answer({"error": code}, 404, X_Error_Code=code, X_Error_Message=code)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = unquote(urlsplit(self.path).path)
            if path == "/api/repos/create":
                asked = json.loads(body)
                key = f"{asked.get('type') or 'model'}s/{asked.get('organization') or 'user'}/{asked['name']}"
                hub.repos.setdefault(key, {"main": {}})
                return self.answer({"url": f"{hub.url}/{key.removeprefix('models/')}", "name": key.split("/", 1)[1]})
            if path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            found = re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)/(preupload|commit)/(.+)", path)
            if not found:
                return self.missing("EntryNotFound")
            kind, name, action, revision = found.groups()
            if action == "preupload":
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self.answer({"files": files})
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            files = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
            sha = hub.commit(name, files, kind, revision)
            return self.answer({"commitUrl": f"{hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?/?", path):
                kind, name, action, revision = found.groups()
                key, revision = f"{kind}/{name}", revision or "main"
                if key not in hub.repos:
                    return self.missing("RepoNotFound")
                if revision not in hub.repos[key]:
                    return self.missing("RevisionNotFound")
                files = hub.repos[key][revision]
                if action == "tree":
                    entries = [
                        {"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                        for p, b in files.items()
                    ]
                    return self.answer(entries, Content_Type="application/json")
                siblings = [{"rfilename": path} for path in files]
                told = {"id": name, "sha": hub.sha(key, revision), "siblings": siblings, "private": False, "tags": []}
                return self.answer(told, Content_Type="application/json")
            found = re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if not found:
                return self.missing("RepoNotFound")
            kind, name, revision, file = found.groups()
            key = f"{kind or 'models'}/{name}"
            if key not in hub.repos:
                return self.missing("RepoNotFound")
            if file not in hub.repos[key].get(revision, {}):
                return self.missing("EntryNotFound")
            body = hub.repos[key][revision][file]
            if self.command == "GET":
                hub.fetched.append(file)
            etag = f'"{hashlib.sha1(body).hexdigest()}"'
            return self.answer(body, ETag=etag, X_Repo_Commit=hub.sha(key, revision))

        do_HEAD = do_GET

    return Handler


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    """A stand-in on a loopback port, stopped at the end."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
