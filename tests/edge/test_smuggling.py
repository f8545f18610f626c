"""Request smuggling (fault 30): each request is refused, or understood by us as by a strict backend.

The backend is h11, which is strict; it reads everything that arrives on its connections and counts requests. After
each case the client sends a canary. When the case was refused, nothing of it may have reached the backend, and the
connection is closed. When it was passed, the backend must have seen exactly one request with the body we expect, and
then the canary.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import h11
import pytest

from tests.edge.conftest import Platform, RawClient

HOST = b"Host: web.localhost\r\n"
CANARY = b"GET /canary HTTP/1.1\r\nHost: web.localhost\r\nConnection: close\r\n\r\n"


@dataclass
class Backend:
    """A strict server. `seen` is what it understood: method, target, body."""

    seen: list[tuple[bytes, bytes, bytes]]
    errors: list[str]

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        body, request = b"", None
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                self.errors.append(str(error))
                return
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                connection.receive_data(data)
                if not data:
                    return
            elif isinstance(event, h11.Request):
                request, body = event, b""
                hosts = [value for name, value in event.headers if name == b"host"]
                assert len(hosts) == 1
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                self.seen.append((request.method, request.target, body))
                headers = [("content-length", "2")]
                writer.write(connection.send(h11.Response(status_code=200, headers=headers)) or b"")
                if request.method != b"HEAD":
                    writer.write(connection.send(h11.Data(data=b"ok")) or b"")
                writer.write(connection.send(h11.EndOfMessage()) or b"")
                await writer.drain()
                if connection.our_state is h11.MUST_CLOSE:
                    return
                connection.start_next_cycle()
            else:
                return


def head(*lines: bytes, start: bytes = b"POST /case HTTP/1.1") -> bytes:
    return start + b"\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: web.localhost\r\n\r\n"

REFUSED = {
    # Two lengths
    "CL.TE": head(b"Content-Length: 6", CHUNKED) + b"0\r\n\r\nG",
    "TE.CL": head(CHUNKED, b"Content-Length: 4") + b"5c\r\n" + SMUGGLED,
    "CL.CL differing": head(b"Content-Length: 0", b"Content-Length: 44") + SMUGGLED,
    "CL.CL equal": head(b"Content-Length: 3", b"Content-Length: 3") + b"abc",
    "CL list": head(b"Content-Length: 3, 3") + b"abc",
    "TE.TE": head(CHUNKED, b"Transfer-Encoding: identity") + b"0\r\n\r\n",
    "TE twice chunked": head(CHUNKED, CHUNKED) + b"0\r\n\r\n",
    # Odd lengths
    "CL plus": head(b"Content-Length: +3") + b"abc",
    "CL minus": head(b"Content-Length: -3") + b"abc",
    "CL hex": head(b"Content-Length: 0x3") + b"abc",
    "CL underscore": head(b"Content-Length: 1_0") + b"abcdefghij",
    "CL empty": head(b"Content-Length:") + b"",
    "CL float": head(b"Content-Length: 3.0") + b"abc",
    "CL inner space": head(b"Content-Length: 1 0") + b"abc",
    "CL huge": head(b"Content-Length: 99999999999999999999999") + b"abc",
    "CL unicode digit": head("Content-Length: ٣".encode()) + b"abc",
    "CL comma": head(b"Content-Length: 3,") + b"abc",
    "CL vertical tab": head(b"Content-Length: \x0b3") + b"abc",
    # Odd encodings
    "TE chunked, x": head(b"Transfer-Encoding: chunked, x") + b"0\r\n\r\n",
    "TE x, chunked": head(b"Transfer-Encoding: x, chunked") + b"0\r\n\r\n",
    "TE gzip, chunked": head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "TE identity": head(b"Transfer-Encoding: identity") + b"",
    "TE xchunked": head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "TE quoted": head(b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n",
    "TE empty": head(b"Transfer-Encoding:") + b"",
    "TE parameter": head(b"Transfer-Encoding: chunked;q=1") + b"0\r\n\r\n",
    "TE vertical tab": head(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n",
    "TE null": head(b"Transfer-Encoding: chunked\x00") + b"0\r\n\r\n",
    "TE in HTTP/1.0": head(CHUNKED, start=b"POST /case HTTP/1.0") + b"0\r\n\r\n",
    # Lines
    "bare LF lines": b"GET /case HTTP/1.1\nHost: web.localhost\n\n",
    "bare LF in head": b"GET /case HTTP/1.1\r\nHost: web.localhost\nX: y\r\n\r\n",
    "bare LF end": b"GET /case HTTP/1.1\r\nHost: web.localhost\r\n\n" + SMUGGLED,
    "bare CR": b"GET /case HTTP/1.1\r\nHost: web.localhost\rX: y\r\n\r\n",
    "CR in value": head(b"X: a\rTransfer-Encoding: chunked"),
    "LF in value": head(b"X: a\nTransfer-Encoding: chunked"),
    "NUL in value": head(b"X: a\x00b"),
    "DEL in value": head(b"X: a\x7fb"),
    "control in value": head(b"X: a\x01b"),
    "obs-fold": head(b"X: a", b" b"),
    "obs-fold tab": head(b"X: a", b"\tTransfer-Encoding: chunked"),
    "obs-fold TE": head(b"Transfer-Encoding:", b" chunked") + b"0\r\n\r\n",
    "first line folded": b"GET /case HTTP/1.1\r\n Host: web.localhost\r\n\r\n",
    "space before colon": head(b"Transfer-Encoding : chunked") + b"0\r\n\r\n",
    "tab before colon": head(b"Content-Length\t: 3") + b"abc",
    "no colon": head(b"Transfer-Encoding chunked"),
    "empty name": head(b": chunked"),
    "name with NUL": head(b"Transfer-Encoding\x00: chunked"),
    "name with space": head(b"Transfer Encoding: chunked"),
    "name with slash": head(b"X/Y: z"),
    "name not ASCII": head("Transfér-Encoding: chunked".encode()),
    # Host
    "Host missing": b"GET /case HTTP/1.1\r\nX: y\r\n\r\n",
    "Host empty": b"GET /case HTTP/1.1\r\nHost:\r\n\r\n",
    "Host twice": head(b"Host: web.localhost"),
    "Host twice differing": head(b"Host: other.localhost"),
    "Host with path": b"GET /case HTTP/1.1\r\nHost: web.localhost/x\r\n\r\n",
    "Host with user": b"GET /case HTTP/1.1\r\nHost: x@web.localhost\r\n\r\n",
    "Host with space": b"GET /case HTTP/1.1\r\nHost: web.localhost x\r\n\r\n",
    "Host list": b"GET /case HTTP/1.1\r\nHost: web.localhost, x\r\n\r\n",
    "Host bad port": b"GET /case HTTP/1.1\r\nHost: web.localhost:80x\r\n\r\n",
    "Host percent": b"GET /case HTTP/1.1\r\nHost: web%2elocalhost\r\n\r\n",
    "Host in 1.0 missing": b"GET /case HTTP/1.0\r\n\r\n",
    "absolute differing": head(start=b"GET http://other.localhost/case HTTP/1.1"),
    "absolute with user": head(start=b"GET http://web.localhost@x/case HTTP/1.1"),
    "absolute ftp": head(start=b"GET ftp://web.localhost/case HTTP/1.1"),
    # Request line
    "two spaces": head(start=b"GET  /case HTTP/1.1"),
    "tab": head(start=b"GET\t/case HTTP/1.1"),
    "space in target": head(start=b"GET /case x HTTP/1.1"),
    "no version": b"GET /case\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /case\r\n\r\n",
    "HTTP/1.2": head(start=b"GET /case HTTP/1.2"),
    "HTTP/1.10": head(start=b"GET /case HTTP/1.10"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http lower case": head(start=b"GET /case http/1.1"),
    "version space": head(start=b"GET /case HTTP/1.1 "),
    "leading space": b" " + head(start=b"GET /case HTTP/1.1"),
    "three empty lines": b"\r\n\r\n\r\n" + head(start=b"GET /case HTTP/1.1"),
    "method with colon": head(start=b"GE:T /case HTTP/1.1"),
    "target not a path": head(start=b"GET case HTTP/1.1"),
    "target not ASCII": head(start="GET /casé HTTP/1.1".encode()),
    "target with NUL": head(start=b"GET /ca\x00se HTTP/1.1"),
    "CONNECT": head(start=b"CONNECT web.localhost:443 HTTP/1.1"),
    "star GET": head(start=b"GET * HTTP/1.1"),
    "expect unknown": head(b"Expect: 200-maybe"),
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}

BAD_CHUNKS = {
    "plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "space first": b" 3\r\nabc\r\n0\r\n\r\n",
    "underscore": b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n",
    "empty": b"\r\nabc\r\n0\r\n\r\n",
    "not hex": b"g\r\nabc\r\n0\r\n\r\n",
    "too short": b"2\r\nabc\r\n0\r\n\r\n",
    "bare LF size": b"3\nabc\r\n0\r\n\r\n",
    "bare LF data": b"3\r\nabc\n0\r\n\r\n",
    "bare CR": b"3\rabc\r\n0\r\n\r\n",
    "LF in extension": b"3;x\nabc\r\n0\r\n\r\n",
    "CR in extension": b"3;x\ry\r\nabc\r\n0\r\n\r\n",
    "NUL in extension": b"3;\x00\r\nabc\r\n0\r\n\r\n",
    "overflow": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "endless size": b"0" * 300 + b"3\r\nabc\r\n0\r\n\r\n",
    "endless extension": b"3;" + b"x" * 300 + b"\r\nabc\r\n0\r\n\r\n",
    "bad trailer": b"3\r\nabc\r\n0\r\nX y\r\n\r\n",
    "folded trailer": b"3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n",
    "endless trailers": b"3\r\nabc\r\n0\r\n" + b"X: y\r\n" * 2000,
}

PASSED = {
    "plain GET": (head(start=b"GET /case HTTP/1.1"), b""),
    "body": (head(b"Content-Length: 3") + b"abc", b"abc"),
    "body like a request": (head(b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED, SMUGGLED),
    "GET with body": (head(b"Content-Length: 3", start=b"GET /case HTTP/1.1") + b"abc", b"abc"),
    "leading zeros": (head(b"Content-Length: 0003") + b"abc", b"abc"),
    "zero": (head(b"Content-Length: 0"), b""),
    "spaces around value": (head(b"Content-Length:   3\t ") + b"abc", b"abc"),
    "chunked": (head(CHUNKED) + b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "chunked in capitals": (head(b"transfer-ENCODING: ChUnKeD") + b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "chunk extension": (head(CHUNKED) + b'3;a="b"\r\nabc\r\n0;x\r\n\r\n', b"abc"),
    "chunk leading zeros": (head(CHUNKED) + b"0003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "trailers": (head(CHUNKED) + b"3\r\nabc\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n", b"abc"),
    "chunk like a request": (head(CHUNKED) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), SMUGGLED),
    "underscored framing": (head(b"Content_Length: 50", b"Transfer_Encoding: chunked"), b""),
    "framing nominated": (
        head(b"Connection: content-length, transfer-encoding", b"Content-Length: 3") + b"abc",
        b"abc",
    ),
    "empty line first": (b"\r\n" + head(start=b"GET /case HTTP/1.1"), b""),
    "absolute": (head(start=b"GET http://WEB.localhost:80/case HTTP/1.1"), b""),
    "upgrade with body": (head(b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 3") + b"abc", b"abc"),
    "upgrade ignored": (head(b"Connection: upgrade", b"Upgrade: x", start=b"GET /case HTTP/1.1"), b""),
    "obs-text": (head(b"X: caf\xe9"), b""),
    "odd method": (head(start=b"M-SEARCH /case HTTP/1.1"), b""),
    "other X-TE": (head(b"X-Transfer-Encoding: chunked"), b""),
}


@pytest.fixture
async def strict(platform: Platform):  # type: ignore[no-untyped-def]
    """Plays many cases on one platform, one worker and one backend: a fresh client connection for each."""
    backend = Backend([], [])
    await platform.app("web")
    await platform.app("other")
    await platform.machine("web", port=await platform.serve(backend))
    worker = await platform.edge(head_timeout_s=10)

    async def run(data: bytes, *, split: bool = False) -> tuple[list[tuple[bytes, bytes, bytes]], bytes]:
        backend.seen.clear()
        client = await RawClient.open(worker)
        try:
            for at in range(0, len(data), 1 if split else len(data)):
                client.send(data[at : at + 1] if split else data)
                await asyncio.sleep(0)
            client.send(CANARY)
            answer = await client.eof()
        finally:
            client.close()
        assert backend.errors == []
        return list(backend.seen), answer

    return run


async def test_ambiguous_requests_are_refused(strict) -> None:  # type: ignore[no-untyped-def]
    for name, data in REFUSED.items():
        for split in (False, True):
            seen, answer = await strict(data, split=split)
            assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 505", b"HTTP/1.1 405", b"HTTP/1.1 417"), name
            assert answer.count(b"server: Caddisfly") == 1, name
            assert b"connection: close" in answer, name
            assert seen == [], name


async def test_bad_chunks_are_refused(strict) -> None:  # type: ignore[no-untyped-def]
    for name, body in BAD_CHUNKS.items():
        seen, answer = await strict(head(CHUNKED) + body)
        assert answer[:12] == b"HTTP/1.1 400", name
        assert answer.count(b"server: Caddisfly") == 1, name
        assert seen == [], name


async def test_clear_requests_mean_the_same_on_both_sides(strict) -> None:  # type: ignore[no-untyped-def]
    for name, (data, body) in PASSED.items():
        for split in (False, True):
            seen, answer = await strict(data, split=split)
            assert [(target, got) for _, target, got in seen] == [(b"/case", body), (b"/canary", b"")], name
            assert answer.count(b"HTTP/1.1 200") == 2, name
