"""A registry that can be told how to fail. Real sockets, one thread per connection, nothing of the code under test."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from tests.images.factories import ImageParts, sha

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class FakeRegistry:
    """Serves manifests and blobs; `failures` is a queue of what to do to the next requests for content."""

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.failures: deque[str] = deque()
        self.always = ""
        self.token = ""
        self.refresh_token = ""
        self.user: tuple[str, str] | None = None
        self.redirect_to = ""
        self.ranges = True
        self.released = threading.Event()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.handle(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def push(self, name: str, parts: ImageParts) -> str:
        """Publish an image as `repository:tag`; its full reference."""
        repository, tag = name.split(":")
        for target in (tag, parts.digest):
            self.manifests[f"{repository}/{target}"] = (parts.manifest_bytes, DOCKER_MANIFEST)
        self.blobs |= parts.blobs
        return f"{self.host}/{name}"

    def asked_for(self, pattern: str) -> list[str]:
        """Paths of the requests that match."""
        return [path for _, path, _ in self.requests if re.search(pattern, path)]

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        self.requests.append((http.command, http.path, dict(http.headers)))
        if http.path.startswith("/token"):
            return self._give_token(http)
        if not self._authorised(http):
            return None
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", http.path)
        if match is None:
            return self._answer(http, 404, b"{}")
        repository, kind, target = match.groups()
        failure = self.always or (self.failures.popleft() if self.failures else "")
        if failure.isdigit():
            return self._answer(http, int(failure), b"<html>secret page of another server</html>")
        if kind == "manifests":
            body, media_type = self.manifests.get(f"{repository}/{target}", (b"", ""))
            if not body:
                return self._answer(http, 404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
            headers = {"Content-Type": media_type, "Docker-Content-Digest": sha(body)}
            return self._answer(http, 200, body + b" " if failure == "corrupt" else body, headers)
        if target not in self.blobs:
            return self._answer(http, 404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        if self.redirect_to:
            return self._answer(http, 307, b"", {"Location": f"{self.redirect_to}{http.path}"})
        return self._send_blob(http, self.blobs[target], failure)

    def _send_blob(self, http: BaseHTTPRequestHandler, body: bytes, failure: str) -> None:
        status, headers = 200, {}
        if failure == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if failure == "longer":
            body += b"more"
        wanted = http.headers.get("Range")
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[start:]
        if failure in ("truncate", "stall", "trickle"):
            http.send_response(status)
            http.send_header("Content-Length", str(len(body)))
            for key, value in headers.items():
                http.send_header(key, value)
            http.end_headers()
            http.wfile.write(body[: len(body) // 2])
            http.wfile.flush()
            if failure == "stall":
                self.released.wait()
            for byte in body[len(body) // 2 :] if failure == "trickle" else b"":
                if self.released.wait(0.01):
                    break
                http.wfile.write(bytes([byte]))
            http.close_connection = True
            return
        self._answer(http, status, body, headers)

    def _authorised(self, http: BaseHTTPRequestHandler) -> bool:
        given = http.headers.get("Authorization", "")
        if self.token and given != f"Bearer {self.token}":
            challenge = f'Bearer realm="http://{self.host}/token",service="{self.host}",scope="x"'
        elif self.user and not self.token and given != _basic(*self.user):
            challenge = 'Basic realm="here"'
        else:
            return True
        self._answer(http, 401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": challenge})
        return False

    def _give_token(self, http: BaseHTTPRequestHandler) -> None:
        if self.refresh_token:
            form = parse_qs(http.rfile.read(int(http.headers.get("Content-Length", 0))).decode())
            if form.get("grant_type") != ["refresh_token"] or form.get("refresh_token") != [self.refresh_token]:
                return self._answer(http, 401, b"{}")
            return self._answer(http, 200, json.dumps({"access_token": self.token}).encode())
        if self.user and http.headers.get("Authorization", "") != _basic(*self.user):
            return self._answer(http, 401, b"{}")
        return self._answer(http, 200, json.dumps({"token": self.token, "expires_in": 300}).encode())

    @staticmethod
    def _answer(http: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        http.send_response(status)
        http.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            http.send_header(key, value)
        http.end_headers()
        if http.command != "HEAD":
            http.wfile.write(body)


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
