"""A registry to push to that can be told how to fail. Real sockets, nothing of the code under test."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest


class PushRegistry:
    """`failures` is a queue of what to do to the next requests that begin with a method: `("PATCH", "503")`.

    drop: read half of the body, keep it for an upload that is known, close the connection. lose: do it all, then close
    without an answer. forget: throw the upload away first. spoil: keep something else. A number: answer with it.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: deque[tuple[str, str]] = deque()
        self.password = ""
        self.whole = True
        """Whether a blob may come in the request that announces it."""
        self._lock = threading.Lock()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.handle(self)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_GET

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def count(self, method: str) -> int:
        return sum(method == seen for seen, _ in self.requests)

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        split = urlsplit(http.path)
        with self._lock:
            self.requests.append((http.command, http.path))
            failure = ""
            if self.failures and self.failures[0][0] == http.command:
                failure = self.failures.popleft()[1]
        size = int(http.headers.get("content-length") or 0)
        upload_id = split.path.rpartition("/")[2]
        if failure == "forget":
            self.uploads.pop(upload_id, None)
        if failure == "drop":
            self.uploads.get(upload_id, bytearray()).extend(http.rfile.read(size // 2))
            http.close_connection = True
            http.connection.close()
            return
        body = http.rfile.read(size)
        if failure == "spoil":
            body = body[:-1] + b"?"
        status, headers, content = self._answer(http, split.path, parse_qs(split.query), body, failure)
        if failure == "lose":
            http.close_connection = True
            http.connection.close()
            return
        http.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            http.send_header(name, value)
        http.end_headers()
        if http.command != "HEAD":
            http.wfile.write(content)

    def _answer(
        self, http: BaseHTTPRequestHandler, path: str, query: dict[str, list[str]], body: bytes, failure: str
    ) -> tuple[int, dict[str, str], bytes]:
        wanted = "Basic " + base64.b64encode(f"x:{self.password}".encode()).decode()
        if self.password and http.headers.get("authorization") != wanted:
            return 401, {"www-authenticate": 'Basic realm="here"'}, _errors("UNAUTHORIZED", "who are you?")
        if failure.isdigit():
            return int(failure), {"retry-after": "0"}, _errors("TOOMANYREQUESTS", "slow down")
        found = re.fullmatch(r"/v2/hello/(blobs/uploads|blobs|manifests)/(.*)", path)
        if found is None:
            return 404, {}, _errors("NAME_UNKNOWN", "no such repository")
        kind, name = found.groups()
        if kind == "manifests":
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            record = json.loads(body)
            missing = [
                one["digest"] for one in (record["config"], *record["layers"]) if one["digest"] not in self.blobs
            ]
            if missing:
                return 404, {}, _errors("MANIFEST_BLOB_UNKNOWN", missing[0])
            self.manifests[digest] = self.manifests[name] = body
            return 201, {"docker-content-digest": digest}, b""
        if kind == "blobs":
            return (200, {}, b"") if name in self.blobs else (404, {}, _errors("BLOB_UNKNOWN", name))
        return self._upload(http, name, query, body)

    def _upload(
        self, http: BaseHTTPRequestHandler, name: str, query: dict[str, list[str]], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if http.command == "POST" and self.whole and "digest" in query:
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            assert query["digest"] == [digest]
            self.blobs[digest] = body
            return 201, {}, b""
        if http.command == "POST":
            name = str(uuid.uuid4())
            self.uploads[name] = bytearray()
            return 202, {"location": f"/v2/hello/blobs/uploads/{name}?state=0"}, b""
        if name not in self.uploads:
            return 404, {}, _errors("BLOB_UPLOAD_UNKNOWN", name)
        upload = self.uploads[name]
        place = {"location": f"/v2/hello/blobs/uploads/{name}?state={len(upload) + len(body)}"}
        if http.command == "GET":
            return 204, place | {"range": f"0-{max(0, len(upload) - 1)}"}, b""
        first = http.headers.get("content-range", "").partition("-")[0]
        if first and int(first) != len(upload):
            return 416, {"range": f"0-{len(upload) - 1}"}, b""
        upload += body
        if http.command == "PATCH":
            return 202, place | {"range": f"0-{len(upload) - 1}"}, b""
        digest = f"sha256:{hashlib.sha256(upload).hexdigest()}"
        if query["digest"] != [digest]:
            return 400, {}, _errors("DIGEST_INVALID", f"it is {digest}")
        self.blobs[digest] = bytes(self.uploads.pop(name))
        return 201, {}, b""


def _errors(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@pytest.fixture
def push_registry() -> Iterator[PushRegistry]:
    server = PushRegistry()
    yield server
    server.close()
