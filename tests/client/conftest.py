"""A small real HTTP server that answers what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from caddisfly.client import AsyncClient, Client

Ask = Callable[..., Any]
Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Api:
    """`on(method, path, answer…)`: each answer is given once, the last for ever. "drop" closes the connection."""

    url: str = ""
    seen: list[Request] = field(default_factory=list)
    routes: dict[tuple[str, str], list[Any]] = field(default_factory=dict)

    def on(self, method: str, path: str, *answers: Answer | str | Callable[[Request], Answer]) -> None:
        self.routes[method, path] = list(answers)

    def answer(self, request: Request) -> Any:
        self.seen.append(request)
        answers = self.routes.get((request.method, request.path))
        if not answers:
            return 404, "404 page not found"
        chosen = answers.pop(0) if len(answers) > 1 else answers[0]
        return chosen(request) if callable(chosen) else chosen

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.seen if request.path == path]


@pytest.fixture
def api() -> Iterator[Api]:
    known = Api()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            url = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            request = Request(
                self.command,
                url.path,
                {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()},
                {key.lower(): value for key, value in self.headers.items()},
                json.loads(raw) if raw else None,
            )
            answer = known.answer(request)
            if answer == "drop":
                self.close_connection = True
                return
            status, body, *more = answer
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode() if body is not None else b""
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("fly-request-id", "01REQ-lab")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    known.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=["blocking", "asynchronous"])
async def ask(request: pytest.FixtureRequest, api: Api) -> AsyncIterator[Ask]:
    """Call a method of either client by name, as in `await ask("machines.get", "app", "id")`."""

    def find(client: Any, name: str) -> Any:
        for word in name.split("."):
            client = getattr(client, word)
        return client

    if request.param == "blocking":
        with Client(api.url, token="secret") as client:

            async def call(name: str, /, *words: Any, **named: Any) -> Any:
                return find(client, name)(*words, **named)

            yield call
    else:
        async with AsyncClient(api.url, token="secret") as asynchronous:

            async def await_call(name: str, /, *words: Any, **named: Any) -> Any:
                return await find(asynchronous, name)(*words, **named)

            yield await_call
