"""One probe: connect to a Machine from its host, and for `http` ask one question.

Whoever answers may be hostile. The deadline covers everything from the first packet to the last byte, so dripping buys
nothing; what is read is bounded, and of that only the beginning of the body is kept. The address is the Machine's own
and redirects are not followed: a Machine cannot make its host talk to anyone else.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from functools import cache

import httptools

from caddisfly.model.check import CheckConfig

OUTPUT_MAX = 1024
"""Bytes of an answer that are kept as output."""
_READ_MAX = 64 * 1024
_CHUNK = 8 * 1024
_WITHOUT_BODY = (204, 304)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found."""

    passed: bool
    output: str


async def probe(check: CheckConfig, address: str) -> Finding:
    """Ask once. Never raises for what the Machine does, and never takes longer than the check's timeout."""
    try:
        async with asyncio.timeout(check.timeout_s):
            reader, writer = await _connect(check, address)
            try:
                if check.type == "tcp":
                    return Finding(True, "connected")
                return await _ask(check, address, reader, writer)
            finally:
                writer.transport.abort()
    except TimeoutError as error:
        if error.errno is None:
            return Finding(False, f"timed out after {check.timeout_s:g} s")
        return Finding(False, f"connect: {_reason(error)}")  # the kernel's own, when nobody is there
    except ssl.SSLError as error:
        return Finding(False, f"tls: {error.reason or error}")
    except OSError as error:
        return Finding(False, f"connect: {_reason(error)}")


async def _connect(check: CheckConfig, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if check.type == "http" and check.tls:
        context = _context(check.tls_skip_verify)
        name = check.tls_server_name or address
        return await asyncio.open_connection(address, check.port, limit=_CHUNK, ssl=context, server_hostname=name)
    return await asyncio.open_connection(address, check.port, limit=_CHUNK)


async def _ask(check: CheckConfig, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Finding:
    writer.write(_request(check, address))
    answer = _Answer(head_only=check.method == "HEAD")
    read = 0
    while not answer.complete:
        if read > _READ_MAX:
            return Finding(False, f"the answer's head is larger than {_READ_MAX // 1024} KiB")
        data = await reader.read(_CHUNK)
        if not data:
            break
        read += len(data)
        try:
            answer.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            break
        except httptools.HttpParserError as error:
            return Finding(False, f"not an HTTP answer: {error}")
    if not answer.status:
        return Finding(False, "the connection was closed without an answer")
    passed = 200 <= answer.status < 300
    return Finding(passed, answer.text or f"status {answer.status}" if passed else _failure(answer))


def _failure(answer: _Answer) -> str:
    return f"status {answer.status}: {answer.text}" if answer.text else f"status {answer.status}"


class _Answer:
    """What the parser tells of a response, as far as it is kept."""

    def __init__(self, *, head_only: bool) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.complete = False
        self._head_only = head_only
        self._body = bytearray()

    @property
    def text(self) -> str:
        return bytes(self._body[:OUTPUT_MAX]).decode(errors="replace").replace("\0", "").strip()

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status == 101 or status >= 200:  # the others only announce the answer
            self.status = status
            self.complete = self._head_only or status in _WITHOUT_BODY

    def on_body(self, data: bytes) -> None:
        self._body += data
        self.complete = self.complete or len(self._body) >= OUTPUT_MAX

    def on_message_complete(self) -> None:
        self.complete = self.complete or self.status > 0


def _request(check: CheckConfig, address: str) -> bytes:
    given = {name.lower() for name, _ in check.headers}
    usual = [("Host", f"{address}:{check.port}"), ("User-Agent", "caddisfly-check"), ("Accept", "*/*")]
    if check.method not in ("GET", "HEAD"):
        usual.append(("Content-Length", "0"))
    headers = [*((name, value) for name, value in usual if name.lower() not in given), *check.headers]
    lines = [f"{check.method} {check.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


@cache
def _context(skip_verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: OSError) -> str:
    """In the words of Go's clients, which people match: `connection refused`."""
    return os.strerror(error.errno).lower() if error.errno else str(error) or type(error).__name__
