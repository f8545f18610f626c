"""One probe, against servers that answer well, badly, slowly and without end."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caddisfly.host.checks.probe import OUTPUT_MAX, Finding, probe
from caddisfly.model.check import CheckConfig
from tests.checks.certificate import write_certificate
from tests.conftest import free_port

TIMEOUT_S = 0.5


class Server:
    """Answers every request alike, and remembers them."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self._servers: list[asyncio.Server] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._held = asyncio.Event()

    async def answer(
        self, answer: bytes = b"", *, drip: bytes = b"", hold: bool = False, context: ssl.SSLContext | None = None
    ) -> CheckConfig:
        """Listen, and give the check that asks here. `drip` follows the answer without end."""

        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            try:
                self.seen.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
                while drip:
                    writer.write(drip)
                    await writer.drain()
                    await asyncio.sleep(0.01)
                if hold:
                    await self._held.wait()
            except (ConnectionError, asyncio.IncompleteReadError):
                return
            finally:
                writer.close()

        server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=context)
        self._servers.append(server)
        port = int(server.sockets[0].getsockname()[1])
        return CheckConfig(name="up", type="http", port=port, timeout_s=TIMEOUT_S, tls=context is not None)

    async def close(self) -> None:
        self._held.set()
        for server in self._servers:
            server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.02)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    yield made
    await made.close()


async def ask(check: CheckConfig) -> Finding:
    return await probe(check, "127.0.0.1")


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup", Finding(True, "up")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nup\r\n0\r\n\r\n", Finding(True, "up")),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", Finding(True, "until the end")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Finding(True, "status 204")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\n\r\nx", Finding(True, "x")),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff\0x", Finding(True, "\ufffdx")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", Finding(False, "status 302")),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone", Finding(False, "status 404: gone")),
        (b"HTTP/1.1 500 Oops\r\n\r\n", Finding(False, "status 500")),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Finding(False, "status 101")),
        (b"", Finding(False, "the connection was closed without an answer")),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Finding(False, "the connection was closed without an answer")),
    ],
)
async def test_the_status_decides_and_the_body_is_the_output(server: Server, answer: bytes, finding: Finding) -> None:
    assert await ask(await server.answer(answer)) == finding


async def test_what_is_not_http_is_said_to_be_so(server: Server) -> None:
    finding = await ask(await server.answer(b"SSH-2.0-OpenSSH_9.2\r\n"))
    assert not finding.passed
    assert finding.output.startswith("not an HTTP answer")


async def test_the_request_is_what_the_config_says(server: Server) -> None:
    check = await server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    headers = (("Host", "a.example"), ("X-A", "1"), ("X-A", "2"))
    finding = await ask(replace(check, method="HEAD", path="/health?x=1", headers=headers))
    assert finding == Finding(True, "status 200")
    assert server.seen == [
        b"HEAD /health?x=1 HTTP/1.1\r\nUser-Agent: caddisfly-check\r\nAccept: */*\r\n"
        b"Host: a.example\r\nX-A: 1\r\nX-A: 2\r\nConnection: close\r\n\r\n"
    ]


@pytest.mark.parametrize(
    "behaviour",
    [
        {"hold": True},
        {"answer": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nup", "hold": True},
        {"answer": b"HTTP/1.1 200 OK\r\n", "drip": b"X: y\r\n"},
        {"answer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "drip": b"1\r\nx\r\n"},
        {"answer": b"HTTP/1.1 200 OK", "drip": b"K"},
    ],
)
async def test_who_never_ends_is_given_up_in_time(server: Server, behaviour: dict[str, Any]) -> None:
    check = await server.answer(**behaviour)
    began = time.monotonic()
    assert await ask(check) == Finding(False, "timed out after 0.5 s")
    assert time.monotonic() - began < TIMEOUT_S + 0.4


async def test_a_body_without_end_is_cut_and_its_beginning_kept(server: Server) -> None:
    finding = await ask(await server.answer(b"HTTP/1.1 200 OK\r\n\r\n", drip=b"x" * 100_000))
    assert finding == Finding(True, "x" * OUTPUT_MAX)


async def test_a_head_without_end_is_given_up(server: Server) -> None:
    finding = await ask(await server.answer(b"HTTP/1.1 200 OK\r\n", drip=b"X: " + b"y" * 50_000 + b"\r\n"))
    assert finding == Finding(False, "the answer's head is larger than 64 KiB")


@pytest.mark.parametrize("type", ["tcp", "http"])
async def test_a_closed_port_is_refused(type: str) -> None:
    finding = await ask(CheckConfig(name="up", type=type, port=free_port(), timeout_s=TIMEOUT_S))
    assert finding == Finding(False, "connect: connection refused")


async def test_tcp_asks_for_nothing_but_a_connection(server: Server) -> None:
    check = await server.answer(hold=True)
    assert await ask(replace(check, type="tcp")) == Finding(True, "connected")


async def test_certificates_are_verified_unless_told_otherwise(server: Server, tmp_path: Path) -> None:
    context = write_certificate(tmp_path, "app.example")
    check = await server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup", context=context)
    refused = await ask(check)
    assert not refused.passed
    assert refused.output.startswith("tls: CERTIFICATE_VERIFY_FAILED")
    assert await ask(replace(check, tls_skip_verify=True)) == Finding(True, "up")


async def test_plain_text_where_tls_is_expected_is_a_failure(server: Server) -> None:
    check = await server.answer(b"HTTP/1.1 200 OK\r\n\r\n")
    finding = await ask(replace(check, tls=True, tls_skip_verify=True))
    assert not finding.passed
