"""A registry that takes pushes, as far as buildah needs one. In memory, nothing of the code under test."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


class PushRegistry:
    """`token`, when set, is the only password that may push."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.requests: list[str] = []
        self.token = ""
        self._uploads: dict[str, bytes] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._handle(self)

            do_HEAD = do_PUT = do_POST = do_PATCH = do_GET

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve_layout(self, layout: Path, name: str) -> None:
        """Publish an OCI layout as `repository:tag`."""
        for blob in (layout / "blobs" / "sha256").iterdir():
            self.blobs[f"sha256:{blob.name}"] = blob.read_bytes()
        entry = json.loads((layout / "index.json").read_text())["manifests"][0]
        repository, _, tag = name.partition(":")
        for reference in (tag, entry["digest"]):
            self.manifests[repository, reference] = (self.blobs[entry["digest"]], entry["mediaType"])

    def manifest(self, repository: str, reference: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.manifests[repository, reference][0])
        return found

    def config(self, repository: str, reference: str) -> dict[str, Any]:
        digest = self.manifest(repository, reference)["config"]["digest"]
        found: dict[str, Any] = json.loads(self.blobs[digest])
        return found

    def _handle(self, http: BaseHTTPRequestHandler) -> None:
        url = urlsplit(http.path)
        self.requests.append(f"{http.command} {url.path}")
        body = http.rfile.read(int(http.headers.get("Content-Length") or 0))
        if http.headers.get("Transfer-Encoding") == "chunked":
            body = _chunked(http)
        if self.token:
            expected = base64.b64encode(f"build:{self.token}".encode()).decode()
            if http.headers.get("Authorization") != f"Basic {expected}":
                return _answer(http, 401, b"{}", {"WWW-Authenticate": 'Basic realm="test"'})
        path = url.path.removeprefix("/v2/")
        if not path:
            return _answer(http, 200, b"{}")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if "/manifests/" in path:
            return self._manifest(http, *path.split("/manifests/"), body)
        if "/blobs/uploads" in path:
            return self._upload(http, path, query, body)
        blob = self.blobs.get(path.rpartition("/")[2])
        if blob is None:
            return _answer(http, 404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        return _answer(http, 200, blob)

    def _manifest(self, http: BaseHTTPRequestHandler, repository: str, reference: str, body: bytes) -> None:
        if http.command == "PUT":
            digest = f"sha256:{sha256(body).hexdigest()}"
            for key in (reference, digest):
                self.manifests[repository, key] = (body, http.headers["Content-Type"])
            return _answer(http, 201, b"", {"Location": f"/v2/{repository}/manifests/{digest}"})
        found = self.manifests.get((repository, reference))
        if found is None:
            return _answer(http, 404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        digest = f"sha256:{sha256(found[0]).hexdigest()}"
        return _answer(http, 200, found[0], {"Content-Type": found[1], "Docker-Content-Digest": digest})

    def _upload(self, http: BaseHTTPRequestHandler, path: str, query: dict[str, str], body: bytes) -> None:
        repository, _, id = path.partition("/blobs/uploads/")
        if http.command == "POST":
            id = uuid.uuid4().hex
            self._uploads[id] = b""
            return _answer(http, 202, b"", {"Location": f"/v2/{repository}/blobs/uploads/{id}"})
        self._uploads[id] += body
        if http.command == "PATCH":
            last = max(0, len(self._uploads[id]) - 1)
            headers = {"Location": f"/v2/{repository}/blobs/uploads/{id}", "Range": f"0-{last}"}
            return _answer(http, 202, b"", headers)
        content = self._uploads.pop(id)
        assert f"sha256:{sha256(content).hexdigest()}" == query["digest"]
        self.blobs[query["digest"]] = content
        return _answer(http, 201, b"", {"Location": f"/v2/{repository}/blobs/{query['digest']}"})


def _chunked(http: BaseHTTPRequestHandler) -> bytes:
    body = b""
    while size := int(http.rfile.readline(), 16):
        body += http.rfile.read(size)
        http.rfile.readline()
    http.rfile.readline()
    return body


def _answer(http: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    http.send_response(status)
    http.send_header("Content-Length", str(len(body)))
    for name, value in (headers or {}).items():
        http.send_header(name, value)
    http.end_headers()
    if http.command != "HEAD":
        http.wfile.write(body)
