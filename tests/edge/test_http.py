"""HTTP/1.1 between a client and an app: framing, order, keep-alive, and what happens when a side goes away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.edge.conftest import Echo, Platform, RawClient, ask

GET = b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 5\r\n\r\nhello"


def answering(*answers: bytes, then_close: bool = False):  # type: ignore[no-untyped-def]
    """An app that answers its requests with exactly these bytes, in turn."""
    left = list(answers)
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()
            if then_close:
                return

    serve.seen = seen  # type: ignore[attr-defined]
    return serve


async def app(platform: Platform, handler) -> RawClient:  # type: ignore[no-untyped-def]
    await platform.app("web")
    await platform.machine("web", port=await platform.serve(handler))
    return await RawClient.open(await platform.edge())


async def test_pipelined_requests_are_answered_in_order(platform: Platform) -> None:
    client = await app(platform, Echo())
    unknown = b"GET /x HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n"
    paths = [b"GET /%d HTTP/1.1\r\nHost: web.localhost\r\n\r\n" % number for number in range(50)]
    client.send(b"".join(path + unknown for path in paths) + POST)
    for number in range(50):
        assert (await client.response())[2].startswith(b"GET /%d " % number)
        assert (await client.response())[0] == 404
    assert (await client.response())[2].endswith(b"hello")
    client.close()


async def test_a_head_may_come_byte_by_byte(platform: Platform) -> None:
    client = await app(platform, Echo())
    for byte in b"\r\n" + POST:
        client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.response())[2].endswith(b"hello")
    client.close()


@pytest.mark.parametrize("size", [0, 1, 5, 100_000, 3_000_000])
async def test_bodies_arrive_whole(platform: Platform, size: int) -> None:
    client = await app(platform, Echo())
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    client.send(b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: %d\r\n\r\n" % size + body)
    status, _, answer = await client.response()
    assert (status, answer.partition(b"\r\n\r\n")[2] == body) == (200, True)

    head = b"POST / HTTP/1.1\r\nHost: web.localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [body[at : at + 70_001] for at in range(0, size, 70_001)]
    client.send(head + b"".join(b"%X;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nT: x\r\n\r\n")
    status, _, answer = await client.response()
    assert (status, answer.partition(b"\r\n\r\n")[2] == body) == (200, True)
    client.close()


async def test_chunked_answers_pass(platform: Platform) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
    client = await app(platform, answering(chunked))
    for _ in range(2):
        client.send(GET)
        status, headers, body = await client.response()
        assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"abcde")
    client.close()


async def test_an_answer_without_length_ends_with_its_connection(platform: Platform) -> None:
    client = await app(platform, answering(b"HTTP/1.1 200 OK\r\n\r\nall of it", then_close=True))
    for _ in range(2):
        client.send(GET)
        assert (await client.response())[2] == b"all of it"
    client.close()


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"),
    ],
)
async def test_answers_without_a_body(platform: Platform, method: str, answer: bytes) -> None:
    client = await app(platform, answering(answer))
    for _ in range(3):
        client.send(GET.replace(b"GET", method.encode()))
        status, _, _ = await client.response(method=method)
        assert status == int(answer.split()[1])
    client.close()


async def test_http_1_0(platform: Platform) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    sized = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    client = await app(platform, answering(sized, chunked))
    client.send(b"GET / HTTP/1.0\r\nHost: web.localhost\r\nConnection: keep-alive\r\n\r\n")
    _, headers, body = await client.response()
    assert (headers["connection"], body) == ("keep-alive", b"abc")
    client.send(b"GET / HTTP/1.0\r\nHost: web.localhost\r\nConnection: keep-alive\r\n\r\n")
    _, headers, body = await client.response()
    assert (headers["connection"], "transfer-encoding" in headers, body) == ("close", False, b"abc")
    client.close()


async def test_connection_close_is_honoured(platform: Platform) -> None:
    client = await app(platform, Echo())
    client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert (await client.response())[1]["connection"] == "close"
    assert await client.eof() == b""
    client.close()


async def test_interim_answers_pass(platform: Platform) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"expect: 100-continue" in head
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)
        await writer.drain()

    client = await app(platform, serve)
    client.send(POST.removesuffix(b"hello").replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"hello")
    assert (await client.response())[2] == b"hello"
    client.close()


async def test_an_early_answer_reaches_a_client_that_still_sends(platform: Platform) -> None:
    client = await app(platform, answering(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"))
    client.send(b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
    status, headers, body = await client.response()
    assert (status, headers["connection"], body) == (413, "close", b"big")
    client.send(b"x" * 100_000)
    assert await client.eof() == b""
    client.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_a_truncated_answer_is_never_completed(platform: Platform, answer: bytes) -> None:
    """L10."""
    client = await app(platform, answering(answer, then_close=True))
    client.send(GET)
    rest = await client.eof()
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not rest.endswith(b"0\r\n\r\n")
    client.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
async def test_a_bad_answer_is_502(platform: Platform, answer: bytes) -> None:
    client = await app(platform, answering(answer))
    client.send(GET)
    status, _, body = await client.response()
    assert (status, b"PU02" in body) == (502, True)
    client.close()


async def test_bytes_after_an_answer_never_reach_the_next_client(platform: Platform) -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    client = await app(platform, answering(poison))
    for _ in range(3):
        client.send(GET)
        assert (await client.response())[2] == b"ok"
    client.close()


async def test_a_stale_pooled_connection_is_replaced(platform: Platform) -> None:
    handler = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await platform.app("web")
    await platform.machine("web", port=await platform.serve(handler))
    worker = await platform.edge()
    for _ in range(3):
        assert (await ask(worker, "web.localhost"))[0] == 200
        for writer in list(platform._writers):
            writer.transport.abort()
    assert len(handler.seen) == 3


async def test_a_get_is_repeated_elsewhere_after_a_reset_and_a_post_is_not(platform: Platform) -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    await platform.app("web")
    await platform.machine("web", port=await platform.serve(dies))
    echo = Echo()
    await platform.machine("web", port=await platform.serve(echo))
    worker = await platform.edge()
    assert {(await ask(worker, "web.localhost"))[0] for _ in range(20)} == {200}
    assert {(await ask(worker, "web.localhost", method="PUT", body=b"x"))[0] for _ in range(20)} == {200}
    answers = [await ask(worker, "web.localhost", method="POST", body=b"x") for _ in range(40)]
    assert {status for status, _, _ in answers} == {200, 502}
    assert len([head for head in echo.heads if head.startswith(b"POST")]) == sum(s == 200 for s, _, _ in answers)


async def test_an_app_that_always_dies_is_502(platform: Platform) -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    client = await app(platform, dies)
    client.send(GET)
    assert (await client.response())[0] == 502
    client.close()


async def test_a_client_that_closes_its_sending_side_gets_its_answer(platform: Platform) -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        await writer.drain()

    client = await app(platform, slow)
    client.send(GET)
    client.writer.write_eof()
    assert (await client.response())[2] == b"late"
    assert await client.eof() == b""
    client.close()


async def test_a_client_that_leaves_frees_the_app(platform: Platform) -> None:
    left = asyncio.Event()

    async def forever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await reader.read()
        left.set()

    await platform.app("web")
    await platform.machine("web", port=await platform.serve(forever))
    client = await RawClient.open(await platform.edge(half_closed_timeout_s=0.2))
    client.send(GET)
    await client.reader.readuntil(b"data: 1\n\n")
    client.writer.transport.abort()
    async with asyncio.timeout(5):
        await left.wait()


async def test_limits(platform: Platform) -> None:
    await platform.app("web")
    await platform.machine("web", port=await platform.serve(Echo()))
    worker = await platform.edge(head_timeout_s=0.3, idle_timeout_s=0.3)
    status, _, _ = await ask(worker, "web.localhost", headers="".join(f"X-{n}: y\r\n" for n in range(300)))
    assert status == 431
    client = await RawClient.open(worker)
    client.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX: " + b"y" * 70_000)
    assert (await client.response())[0] == 431
    client.close()

    slow = await RawClient.open(worker)
    slow.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n")
    assert (await slow.response())[0] == 408
    assert await slow.eof() == b""
    slow.close()

    idle = await RawClient.open(worker)
    idle.send(GET)
    assert (await idle.response())[0] == 200
    assert await idle.eof() == b""
    idle.close()


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def python_server() -> Iterator[int]:
    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


async def test_an_ordinary_client_and_an_ordinary_server(platform: Platform, python_server: int) -> None:
    await platform.app("web")
    await platform.machine("web", port=python_server)
    worker = await platform.edge()
    host, port = worker.addresses[0]
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", headers={"Host": "web.localhost"}) as client:
        answers = await asyncio.gather(*(client.get(f"/{number}") for number in range(50)))
        assert [answer.text for answer in answers] == [f"/{number}" for number in range(50)]
        posted = await client.post("/", content=b"z" * 500_000)
        assert (posted.status_code, len(posted.content)) == (201, 500_000)

        async def pieces():  # type: ignore[no-untyped-def]
            yield b"a"
            yield b"b"

    echo = Echo()
    await platform.app("echo")
    await platform.machine("echo", port=await platform.serve(echo))
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", headers={"Host": "echo.localhost"}) as client:
        assert (await client.post("/", content=pieces())).content.endswith(b"ab")
