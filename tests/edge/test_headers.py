"""What an app sees of a request, and what a client sees of an answer."""

from __future__ import annotations

import re

from tests.edge.conftest import Echo, Platform, RawClient, ask


def names(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").strip().split("\r\n")[1:]
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


async def seen(platform: Platform, headers: str, host: str = "web.localhost") -> tuple[dict[str, str], dict[str, str]]:
    """Headers as the app saw them, and as the client saw them."""
    echo = Echo()
    await platform.app("web")
    await platform.machine("web", port=await platform.serve(echo))
    worker = await platform.edge()
    status, answer, _ = await ask(worker, host, headers=headers)
    assert status == 200
    return names(echo.heads[0]), answer


async def test_platform_headers_are_added(platform: Platform) -> None:
    """P12 and reference 4.6."""
    request, answer = await seen(platform, "", host="web.localhost:8080")
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}-lab", request["fly-request-id"])
    assert request["fly-request-id"] == answer["fly-request-id"]
    assert re.fullmatch(r"t=\d{16}", request.pop("x-request-start"))
    expected = {
        "fly-client-ip": "127.0.0.1",
        "fly-region": "lab",
        "fly-forwarded-port": "80",
        "fly-forwarded-proto": "http",
        "fly-forwarded-ssl": "off",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-ssl": "off",
        "x-forwarded-port": "8080",
        "via": "1.1 fly.io",
    }
    assert expected.items() <= request.items()
    assert (answer["server"], answer["via"]) == ("Caddisfly", "1.1 fly.io")


async def test_forged_platform_headers_are_gone(platform: Platform) -> None:
    """P10 and fault 32, with the underscore spelling that CGI-like gateways confuse."""
    forged = {
        "Fly-Client-IP": "1.2.3.4",
        "fly_client_ip": "1.2.3.4",
        "fly-replay-src": "state=x",
        "Fly-Replay-Failed": "x",
        "Fly-Preferred-Instance-Unavailable": "x",
        "fly-replay-cache-status": "hit",
        "Fly-Region": "xxx",
        "Fly-Request-Id": "x",
        "Fly-Forwarded-Port": "1",
        "fly-forwarded-proto": "https",
        "Fly-Traceparent": "x",
        "X-Forwarded-Proto": "https",
        "X_Forwarded_For": "1.2.3.4",
        "X-Forwarded-SSL": "on",
        "X-Request-Start": "t=1",
    }
    request, _ = await seen(platform, "".join(f"{name}: {value}\r\n" for name, value in forged.items()))
    assert not {"1.2.3.4", "state=x", "xxx", "x", "https", "on", "hit", "1", "t=1"} & set(request.values())
    assert not any("_" in name for name in request)


async def test_what_a_client_may_set_is_kept(platform: Platform) -> None:
    """P11, without the app's own address, of which there is none yet."""
    request, _ = await seen(
        platform,
        "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 8.8.8.8\r\nX-Forwarded-Port: 4433\r\nVia: 1.0 there\r\n"
        "fly-prefer-region: ams\r\nCookie: a=b\r\nX-Empty:\r\n",
    )
    assert request["x-forwarded-for"] == "9.9.9.9, 8.8.8.8, 127.0.0.1"
    assert request["x-forwarded-port"] == "4433"
    assert request["via"] == "1.0 there, 1.1 fly.io"
    assert request["fly-prefer-region"] == "ams"
    assert request["cookie"] == "a=b"
    assert request["x-empty"] == ""


async def test_hop_by_hop_headers_stay_on_their_hop(platform: Platform) -> None:
    echo = Echo()
    await platform.app("web")
    await platform.machine("web", port=await platform.serve(echo))
    worker = await platform.edge()
    client = await RawClient.open(worker)
    client.send(
        b"GET / HTTP/1.1\r\nHost: web.localhost\r\nConnection: keep-alive, X-Hop, Fly-Client-IP, Host\r\nX-Hop: 1\r\n"
        b"Keep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n"
    )
    assert (await client.response())[0] == 200
    request = names(echo.heads[0])
    gone = {"connection", "x-hop", "keep-alive", "te", "proxy-connection", "upgrade", "http2-settings"}
    assert not gone & set(request)
    assert request["fly-client-ip"] == "127.0.0.1"
    assert request["host"] == "web.localhost"
    client.close()


async def test_request_ids_differ_on_one_connection_and_sort(platform: Platform) -> None:
    await platform.app("web")
    await platform.machine("web", port=await platform.serve(Echo()))
    worker = await platform.edge()
    client = await RawClient.open(worker)
    found = []
    for _ in range(50):
        client.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
        found.append((await client.response())[1]["fly-request-id"])
    assert found == sorted(set(found))
    client.close()
