"""A host whose Machines can really be stopped: a real agent on a made-up computer, and an app that knows its state."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.bus.rpc import LocalCaller
from caddisfly.host.agent import Agent
from caddisfly.host.drivers.conduct import Script
from caddisfly.host.settings import HostSettings
from caddisfly.host.simulation import Fate, SimulatedComputer
from caddisfly.model import ids, states
from caddisfly.model.machine import Machine
from tests.conftest import NatsServer
from tests.edge.conftest import HOST_ID, Platform, read_request, service

PASS_S = 0.2
"""What an edge worker of these tests has for minutes."""


class Host:
    """One agent. Its Machines have addresses of 127.1.0.0/16, where `App` answers for all of them."""

    def __init__(self, nats: NatsServer, directory: Path) -> None:
        self.settings = HostSettings(
            data_dir=directory / "data",
            run_dir=directory / "run",
            host_id=HOST_ID,
            region="lab",
            ipv4_pool="127.1.0.0/16",
            disk_floor_mb=0,
            memory_reserve_mb=0,
            secrets_key="A" * 43 + "=",
            stop_grace_s=0.01,
        )
        fate = Fate(chaos=Script())
        computer = SimulatedComputer(self.settings, fate=fate, cpus=64, memory_mb=2**20, lose=lambda seconds: None)
        self.agent = Agent(self.settings, computer, bus=Bus(url=nats.url, token=nats.token, name="host"))
        self.caller = LocalCaller(self.settings.socket)

    @property
    def machines(self) -> dict[str, Machine]:
        assert self.agent._engine is not None
        return self.agent._engine.machines

    async def create(self, app: str, port: int, *, config: dict[str, Any] | None = None, **changes: Any) -> Machine:
        """A Machine that is started, with a service that stops it when it is idle."""
        services = [service(port, **{"autostop": "stop", **changes})]
        request = contract.CreateMachine(
            machine_id=ids.machine_id(),
            app=contract.AppRecord(id=f"id-{app}", name=app, org_id="org", org_slug="org", network_id=1),
            name=ids.generated_name(),
            config={"image": "nginx", "services": services, **(config or {})},
            region="lab",
        )
        made = Machine.from_record((await self.caller.call(contract.CREATE_MACHINE, request)).record)
        assert self.agent._engine is not None
        return await self.agent._engine.settled(made.id)

    def state(self, machine: Machine) -> str:
        return self.machines[machine.id].state


class App:
    """What runs in all Machines. It counts what a Machine that does not run was asked, and answers that were cut."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.takes_s = 0.0
        self.served = 0
        self.wrong: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        while True:
            head, _ = await read_request(reader)
            if not head:
                return
            begun = self._running(address, "asked")
            if b"\r\nupgrade: " in head.lower():
                await self._tunnel(reader, writer)
                return
            await asyncio.sleep(self.takes_s)
            if self._running(address, "answering") != begun:
                self.wrong.append("stopped and started under a request")
            self.served += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()

    def _running(self, address: str, when: str) -> str:
        machine = next(one for one in self.host.machines.values() if one.ipv4 == address)
        if machine.state != states.STARTED:
            self.wrong.append(f"{machine.state} while {when}")
        return machine.run_id

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says back what it hears."""
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1024):
                writer.write(data)
                await writer.drain()


class Sleepers(Platform):
    """The small platform with this host, one app called web, and workers that look all the time."""

    host: Host
    app_code: App
    port: int

    def owns(self, key: str) -> bool:
        return key.startswith("app.")

    def settings(self, **changes: Any) -> Any:
        return super().settings(
            **{"agent_socket": self.host.settings.socket, "autostop_pass_s": PASS_S, "drain_timeout_s": 1, **changes}
        )


@asynccontextmanager
async def sleepers(nats: NatsServer, directory: Path) -> AsyncIterator[Sleepers]:
    platform = Sleepers(nats, directory)
    platform.host = Host(nats, directory)
    await platform.host.agent.start()
    await platform.open()
    try:
        platform.app_code = App(platform.host)
        platform.port = await platform.serve(platform.app_code, host="0.0.0.0")
        await platform.app("web")
        yield platform
    finally:
        await platform.close()
        await platform.host.agent.stop()
