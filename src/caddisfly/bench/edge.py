"""The edge beside nginx, Caddy and Traefik: same upstream, same client, same computer, one run.

Numbers of one computer mean little, so what counts is ratios. CPU is what the kernel charged the proxy's processes
(user and system, from /proc) between the first and the last request; the client and the upstream are not counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caddisfly.bench.serving import free_port, process
from caddisfly.bus import server
from caddisfly.bus.catalog import Publication
from caddisfly.bus.connection import Bus
from caddisfly.model import ids, states
from caddisfly.model.config import Config
from caddisfly.model.errors import FailedPrecondition
from caddisfly.model.machine import ImageRef, Machine, wall_ms

_TOKEN = "bench"
_HOST_ID = "0bee0bee"
_TICKS = os.sysconf("SC_CLK_TCK")
_CONNECTIONS = 32
_WARM_UP_S = 1.0
_ROUNDS = 3
_VARIED = 'request = function() n = (n or 0) + 1; return wrk.format(nil, "/" .. n, {["X-Turn"] = n}) end'
"""Each request with a path and a header of its own: nothing that the edge remembered of the last one helps."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A proxy under test. `pids` are all of its processes."""

    name: str
    port: int
    pids: tuple[int, ...]


async def measure(duration_s: float) -> dict[str, Any]:
    """Run each proxy for `duration_s` seconds of load, in three rounds. Returns rates, CPU and their ratios to nginx's.

    Raises `FailedPrecondition` when nginx or wrk is not installed. Caddy and Traefik are left out when absent.
    """
    for tool in ("nginx", "wrk"):
        if shutil.which(tool) is None:
            raise FailedPrecondition(f"{tool} is not installed", next=f"apt-get install {tool}")
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="caddisfly-bench-")))
        upstream = free_port()
        await stack.enter_async_context(_nginx(directory / "upstream", _ANSWER % upstream, port=upstream))
        contenders = [
            await stack.enter_async_context(_edge(directory, upstream)),
            await stack.enter_async_context(_nginx_proxy(directory, upstream)),
        ]
        if caddy := _tool("caddy"):
            contenders.append(await stack.enter_async_context(_caddy(directory, caddy, upstream)))
        if traefik := _tool("traefik"):
            contenders.append(await stack.enter_async_context(_traefik(directory, traefik, upstream)))
        varied = directory / "varied.lua"
        varied.write_text(_VARIED)
        runs: dict[str, list[dict[str, Any]]] = {}
        for _ in range(_ROUNDS):  # in turn, so that whatever else the computer does meets all alike
            for contender in contenders:
                runs.setdefault(contender.name, []).append(await _load(contender, duration_s / _ROUNDS))
            for contender in contenders[:2]:
                run = await _load(contender, duration_s / _ROUNDS, script=varied)
                runs.setdefault(f"{contender.name}_varied", []).append(run)
    results = {name: _middle(of_one) for name, of_one in runs.items()}
    return {"results": results, "ratios": _ratios(results)}


def _middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run whose CPU per request is the median."""
    return sorted(runs, key=lambda run: float(run["cpu_ms_per_1000"]))[len(runs) // 2]


def _ratios(results: dict[str, Any]) -> dict[str, float]:
    edge, nginx = results["edge"], results["nginx"]
    ratios = {
        "cpu_per_request_vs_nginx": edge["cpu_ms_per_1000"] / nginx["cpu_ms_per_1000"],
        "cpu_per_request_vs_nginx_varied": results["edge_varied"]["cpu_ms_per_1000"]
        / results["nginx_varied"]["cpu_ms_per_1000"],
    }
    for name in ("nginx", "caddy", "traefik"):
        if name in results:
            ratios[f"rate_vs_{name}"] = edge["requests_per_s"] / results[name]["requests_per_s"]
            ratios[f"cpu_per_request_of_{name}"] = results[name]["cpu_ms_per_1000"] / edge["cpu_ms_per_1000"]
    return {name: round(value, 3) for name, value in ratios.items()}


async def _load(contender: Contender, duration_s: float, *, script: Path | None = None) -> dict[str, Any]:
    extra = ["-s", str(script)] if script else []
    await _wrk(contender.port, _WARM_UP_S, extra)
    before = sum(map(_cpu_ticks, contender.pids))
    output = await _wrk(contender.port, duration_s, extra)
    ticks = sum(map(_cpu_ticks, contender.pids)) - before
    requests = int(_found(r"(\d+) requests in", output))
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", output)
    return {
        "requests_per_s": round(float(_found(r"Requests/sec:\s+([\d.]+)", output))),
        "cpu_ms_per_1000": round(ticks / _TICKS * 1e6 / requests, 2),
        "p99": _found(r"99%\s+(\S+)", output),
        "failed": failed[0] if failed else "",
    }


async def _wrk(port: int, duration_s: float, extra: list[str]) -> str:
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{max(1, round(duration_s))}s", "--latency", *extra]
    process = await asyncio.create_subprocess_exec(
        *command,
        "-H",
        "Host: bench.localhost",
        f"http://127.0.0.1:{port}/",
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return output.decode()


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise FailedPrecondition("wrk printed no result", why=text)
    return match[1]


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _tool(name: str) -> str | None:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


async def _routed(port: int) -> None:
    """Wait until it answers 200: it may listen before it has read its routes."""
    async with asyncio.timeout(90):  # programs of 100 MB start slowly on a busy computer
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: bench.localhost\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if answer.startswith(b"HTTP/1.1 200"):
                return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _nginx(directory: Path, site: str, *, port: int) -> AsyncIterator[tuple[int, ...]]:
    directory.mkdir()
    config = directory / "nginx.conf"
    config.write_text(_NGINX % {"dir": directory, "site": site})
    async with process(
        "nginx", "-p", directory, "-e", directory / "error.log", "-c", config, port=port, log=directory / "log"
    ) as pid:
        yield (pid, *_children(pid))


@asynccontextmanager
async def _nginx_proxy(directory: Path, upstream: int) -> AsyncIterator[Contender]:
    port = free_port()
    site = _PROXY % {"port": port, "upstream": upstream}
    async with _nginx(directory / "nginx", site, port=port) as pids:
        yield Contender("nginx", port, pids)


@asynccontextmanager
async def _caddy(directory: Path, binary: str, upstream: int) -> AsyncIterator[Contender]:
    port = free_port()
    config = directory / "Caddyfile"
    config.write_text(
        f"{{\n\tadmin off\n\tauto_https off\n}}\nhttp://:{port} {{\n\treverse_proxy 127.0.0.1:{upstream}\n}}\n"
    )
    command = (binary, "run", "--config", config, "--adapter", "caddyfile")
    async with process(*command, port=port, log=directory / "caddy.log", HOME=str(directory)) as pid:
        yield Contender("caddy", port, (pid, *_children(pid)))


@asynccontextmanager
async def _traefik(directory: Path, binary: str, upstream: int) -> AsyncIterator[Contender]:
    port = free_port()
    routes = {
        "http": {
            "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "app"}},
            "services": {"app": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{upstream}"}]}}},
        }
    }
    file = directory / "traefik-routes.yaml"  # JSON is YAML
    file.write_text(json.dumps(routes))
    config = directory / "traefik.yaml"
    config.write_text(
        f"entryPoints:\n  web:\n    address: '127.0.0.1:{port}'\n"
        f"providers:\n  file:\n    filename: '{file}'\n"
        "global:\n  checkNewVersion: false\n  sendAnonymousUsage: false\nlog:\n  level: ERROR\n"
    )
    async with process(
        binary, f"--configFile={config}", port=port, log=directory / "traefik.log", HOME=str(directory)
    ) as pid:
        await _routed(port)
        yield Contender("traefik", port, (pid, *_children(pid)))


@asynccontextmanager
async def _edge(directory: Path, upstream: int) -> AsyncIterator[Contender]:
    """One worker, with a bus of its own and one Machine in the catalog: the upstream."""
    bus_port, port = free_port(), free_port()
    config = directory / "nats.conf"
    config.write_text(
        server.configuration(host="127.0.0.1", port=bus_port, token=_TOKEN, directory=directory / "jetstream")
    )
    async with process(server.binary(), "-c", config, port=bus_port, log=directory / "nats.log"):
        url = f"nats://127.0.0.1:{bus_port}"
        bus = Bus(url=url, token=_TOKEN, name="bench")
        connected = asyncio.Event()

        async def on_connect() -> None:
            connected.set()

        bus.on_connect(on_connect)
        bus.open()
        try:
            async with asyncio.timeout(10):
                await connected.wait()
            await _publish(bus, upstream)
            settings = {
                "bus_url": url,
                "bus_token": _TOKEN,
                "host_id": _HOST_ID,
                "http_listen": [f"127.0.0.1:{port}"],
            }
            command = (sys.executable, "-c", _WORKER, json.dumps(settings))
            async with process(*command, port=port, log=directory / "edge.log") as pid:
                yield Contender("edge", port, (pid,))
        finally:
            await bus.close()


async def _publish(bus: Bus, upstream: int) -> None:
    catalog = Publication(bus, owner="bench", owns=lambda key, value: False)
    entry = {"id": "app", "name": "bench", "org_id": "o", "org_slug": "o", "network": "n", "network_id": 1}
    await catalog.put("app.bench", entry)
    service = {
        "protocol": "tcp",
        "internal_port": upstream,
        "ports": [{"port": 80, "handlers": ["http"]}],
        "concurrency": {"type": "requests", "soft_limit": 1000},
    }
    machine = Machine(
        id=ids.machine_id(),
        name="bench",
        app_name="bench",
        app_id="app",
        org_id="o",
        org_slug="o",
        network_id=1,
        host_id=_HOST_ID,
        region="local",
        state=states.STARTED,
        instance_id=ids.ulid(),
        run_id=ids.ulid(),
        config=Config({"image": "bench", "services": [service]}),
        image=ImageRef(registry="r", repository="r", tag="t", digest="d"),
        private_ip="::1",
        ipv4="127.0.0.1",
        created_ms=wall_ms(),
        updated_ms=wall_ms(),
    )
    await catalog.put(f"machine.{machine.id}", machine.to_record())


_WORKER = textwrap.dedent(
    """
    import json, sys
    from caddisfly.edge.settings import EdgeSettings
    from caddisfly.edge.worker import main
    main(EdgeSettings(**json.loads(sys.argv[1])))
    """
)
_NGINX = """
daemon off; master_process off; worker_processes 1; pid %(dir)s/pid; error_log %(dir)s/error.log;
events { worker_connections 4096; }
http {
    access_log off; keepalive_requests 100000000; client_body_temp_path %(dir)s/body;
    proxy_temp_path %(dir)s/proxy; fastcgi_temp_path %(dir)s/f; uwsgi_temp_path %(dir)s/u;
    scgi_temp_path %(dir)s/s;
    %(site)s
}
"""
_ANSWER = 'server { listen 127.0.0.1:%d; location / { return 200 "hello from the app\\n"; } }'
_PROXY = """
    upstream app { server 127.0.0.1:%(upstream)d; keepalive 256; keepalive_requests 100000000; }
    server {
        listen 127.0.0.1:%(port)d;
        location / {
            proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Request-Id $request_id; add_header X-Request-Id $request_id;
        }
    }
"""
