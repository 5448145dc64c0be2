"""A stand-in on this machine for a server of files and for the Hugging Face hub, small enough to read."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """``files``: path → content, ``OWNER/NAME/FILE`` for those of a repository. ``licence``: what its card says.

    ``cut``: the next answer breaks off after so many bytes. ``seen``: method and target of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.announced: dict[str, str] = {}
        self.large: dict[str, bytes] = {}
        self.licence = "apache-2.0"
        self.cut: int | None = None
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        path = urlsplit(self.path).path.strip("/")
        if path.startswith("api/models/"):
            self._json(self._info("/".join(path.split("/")[2:4])))
        else:
            owner, name, *rest = [*path.split("/"), "", ""]
            inside = "/".join(rest[2:]).rstrip("/") if rest[0] == "resolve" else ""
            self._content(f"{owner}/{name}/{inside}" if inside else path)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.server.seen.append(f"POST {self.path}")
        body, path = self.rfile.read(int(self.headers["Content-Length"])), urlsplit(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            self._json({"url": f"{self.server.url}/{asked.get('organization', 'me')}/{asked['name']}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            modes = [(one["path"], one["size"]) for one in json.loads(body)["files"]]
            answer = [
                {"path": n, "uploadMode": "lfs" if s > 500 else "regular", "shouldIgnore": False} for n, s in modes
            ]
            self._json({"files": answer})
        elif path.endswith("/info/lfs/objects/batch"):
            upload = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/upload/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": upload})
        else:
            self._commit([json.loads(line) for line in body.splitlines()], "/".join(path.split("/")[3:5]))

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.large[hashlib.sha256(content).hexdigest()] = content
        self._json({})

    def _commit(self, lines: list[dict[str, Any]], repository: str) -> None:
        for value in (line["value"] for line in lines if line["key"] in ("file", "lfsFile")):
            content = self.server.large[value["oid"]] if "oid" in value else base64.b64decode(value["content"])
            self.server.files[f"{repository}/{value['path']}"] = content
        where = f"{self.server.url}/{repository}/commit/{COMMIT}"
        self._json({"success": True, "commitOid": COMMIT, "commitUrl": where, "hookOutput": ""})

    def _info(self, repository: str) -> dict[str, Any]:
        held = {
            path.removeprefix(f"{repository}/"): content
            for path, content in self.server.files.items()
            if path.startswith(f"{repository}/")
        }
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "lfs": {
                    "sha256": self.server.announced.get(name, hashlib.sha256(content).hexdigest()),
                    "size": len(content),
                    "pointerSize": 130,
                },
            }
            for name, content in held.items()
        ]
        return {"id": repository, "sha": COMMIT, "siblings": siblings, "cardData": {"license": self.server.licence}}

    def _content(self, path: str) -> None:
        if path not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[path]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start:][: self.server.cut])
            self.server.cut = None

    def _json(self, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.git-lfs+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def running() -> Iterator[Hub]:
    """A stand-in that listens on this machine alone."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
