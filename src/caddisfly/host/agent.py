"""The agent: puts the rooms of a host together and keeps them in step with the bus.

It can be killed at any moment. What it started runs on; when it comes back it reads its journal, finds every sandbox
again, goes on with what was under way, and takes down whatever belongs to nobody.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from nats.aio.msg import Msg

import caddisfly
from caddisfly.bus import contract
from caddisfly.bus.catalog import HOST, MACHINE, HostEntry, Publication
from caddisfly.bus.connection import Bus
from caddisfly.bus.rpc import BusCaller, Dispatcher
from caddisfly.host.builds.buildah import Destination
from caddisfly.host.builds.builds import Builds
from caddisfly.host.builds.contexts import Repositories
from caddisfly.host.builds.settings import BuildSettings
from caddisfly.host.capacity import free_disk_mb
from caddisfly.host.checks.checks import Checks
from caddisfly.host.checks.memory import Memory
from caddisfly.host.checks.probe import OUTPUT_MAX, Finding
from caddisfly.host.computer import Computer, ThisComputer
from caddisfly.host.drivers.driver import Command
from caddisfly.host.drivers.notes import FileNotes
from caddisfly.host.drivers.pods import Pods
from caddisfly.host.drivers.several import Several
from caddisfly.host.guest import host_name
from caddisfly.host.images.settings import ImageSettings
from caddisfly.host.isolation import Choice
from caddisfly.host.journal.journal import Contents
from caddisfly.host.leases import Leases
from caddisfly.host.logs import LogFollower
from caddisfly.host.machines import Machines
from caddisfly.host.operations import lifecycle, root
from caddisfly.host.operations.engine import Engine
from caddisfly.host.operations.work import Parts, attachment_of
from caddisfly.host.records import Records
from caddisfly.host.schedule import Schedule
from caddisfly.host.secrets import Vault
from caddisfly.host.selfservice.calls import Calls
from caddisfly.host.selfservice.doors import Doors
from caddisfly.host.selfservice.exchange import Answer, Request
from caddisfly.host.sessions import Sessions
from caddisfly.host.settings import HostSettings
from caddisfly.host.shelf import Shelf
from caddisfly.host.snapshots import Snapshots, boot_id
from caddisfly.model import states
from caddisfly.model.check import PASSING, CheckConfig
from caddisfly.model.errors import Problem, Unavailable
from caddisfly.model.machine import Machine, wall_ms

log = logging.getLogger(__name__)

_FORGET_EVERY_S = 60.0
_SWEEP_AGAIN_S = 1.0


class Agent:
    """One host. `start` returns when everything that ran before has been found again."""

    def __init__(
        self,
        settings: HostSettings,
        computer: Computer,
        *,
        bus: Bus | None = None,
        builds: BuildSettings | None = None,
    ) -> None:
        self._settings = settings
        self._computer = computer
        self._bus = bus or Bus(
            url=settings.bus_url, token=settings.bus_token.get_secret_value(), name=f"host-{settings.host_id}"
        )
        self._journal = computer.journal
        self._capacity = computer.capacity
        self._network = computer.links
        self._images = computer.images
        self._snapshots = Snapshots(settings.data_dir / "snapshots")
        self._dispatcher = Dispatcher()
        self._publication = Publication(self._bus, owner=settings.host_id, owns=self._owns)
        self._tasks: list[asyncio.Task[None]] = []
        self._subscribed = False
        self._server: asyncio.Server | None = None
        self._driver: Several | None = None
        self._choice = Choice()
        self._pods: Pods | None = None
        self._engine: Engine | None = None
        self._machines: Machines | None = None
        self._sessions: Sessions | None = None
        self._logs = LogFollower(settings, self._bus, find=self._find, reopen=self._reopen_log)
        self._checks = Checks(
            Memory(settings.run_dir / "checks"), publish=self._publish_again, probe=self._probe, end=self._end_container
        )
        self._doors = Doors(settings, serve=self._answer_machine, wanted=computer.runs_programs)
        self._calls: Calls | None = None
        self._leases = Leases()
        self._vault = Vault(self._journal, key=settings.secrets_key.get_secret_value())
        self._builds = Builds(
            host=settings,
            settings=builds or BuildSettings(),
            journal=self._journal,
            carrier=computer.workshop,
            publish=self._bus.publish,
        )
        self._strays: list[tuple[Callable[[], Awaitable[None]], dict[str, str]]] = []

    async def start(self) -> None:
        settings = self._settings
        self._driver = driver = await self._computer.open(self._driver_of)
        self._choice = choice = Choice(driver.offers)
        self._pods = pods = Pods(driver, notes=FileNotes(settings.run_dir / "pods"), tell=self._tell_of_run)
        parts = Parts(
            settings,
            pods,
            self._images,
            self._network,
            self._snapshots,
            self._check_room,
            accept=self._computer.accept,
            compile=self._computer.compile,
            choice=choice,
            open_secrets=self._vault.open,
            boot=boot_id(),
        )
        self._engine = engine = Engine(self._journal, parts, publish=self._publish)
        self._machines = machines = Machines(
            settings=settings,
            journal=self._journal,
            engine=engine,
            parts=parts,
            capacity=self._capacity,
            leases=self._leases,
            vault=self._vault,
            sessions=lambda id: self._sessions.count(id) if self._sessions else 0,
        )
        self._sessions = Sessions(self._bus, engine=engine, pods=pods, stop=machines.stop)
        records = Records(journal=self._journal, engine=engine, driver=driver, leases=self._leases)
        self._calls = Calls(machines, records, show=lambda id: self._shown(engine.get(id)))
        self._logs.start()
        contents = await self._journal.open()
        # Before any Machine is adopted: a start that makes room must know what all of them need.
        known = {machine.id: machine for machine in contents.machines}
        shelf = Shelf(
            self._images,
            machines=lambda: {**known, **engine.machines}.values(),
            set_aside=contents.quarantined_images,
        )
        await self._adopt(contents)
        known.clear()
        self._publication.want(f"{HOST}.{settings.host_id}", self._entry().model_dump())
        for machine in engine.machines.values():
            self._doors.follow(machine)
            self._publication.want(f"{MACHINE}.{machine.id}", self._shown(machine).to_record())
        self._doors.sweep(keep=contents.quarantined)
        await self._builds.start(contents.builds)
        machines.register(self._dispatcher)
        self._sessions.register(self._dispatcher)
        records.register(self._dispatcher)
        self._builds.register(self._dispatcher)
        shelf.register(self._dispatcher)
        self._register()
        self._server = await self._dispatcher.serve_unix(settings.socket)
        self._bus.on_connect(self._serve_bus)
        self._bus.open()
        self._publication.start()
        self._tasks = [
            asyncio.create_task(self._beat(), name="beat"),
            asyncio.create_task(self._forget_destroyed(), name="forget"),
            asyncio.create_task(
                self._builds.follow_deletions(BusCaller(self._bus, contract.CONTROL)), name="deleted-apps"
            ),
            asyncio.create_task(Schedule(engine).run(), name="schedule"),
            asyncio.create_task(self._sweep_again(), name="sweep"),
        ]
        log.info("agent.ready", extra={"host": settings.host_id, "machines": len(engine.machines)})

    async def stop(self) -> None:
        """Go away and leave what runs running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        await self._dispatcher.close()
        if self._sessions is not None:
            await self._sessions.stop()
        await self._builds.stop()
        await self._logs.stop()
        await self._publication.stop()
        if self._engine is not None:
            await self._engine.close()
        if self._pods is not None:
            await self._pods.close()
        await self._doors.stop()
        await self._checks.stop()
        await self._journal.close()
        await self._bus.close()
        await self._computer.close()

    async def _adopt(self, contents: Contents) -> None:
        assert self._engine is not None
        operations = {operation.machine_id: operation for operation in contents.operations}
        for machine in contents.machines:
            if machine.run_id and machine.alive:
                # The firewall's rules were loaded anew: a Machine that runs must be in them before anything else.
                await self._readmit(machine)
        await self._sweep(contents)
        for machine in contents.machines:
            self._logs.watch(machine.id, from_start=False)
            await self._engine.adopt(machine, operations.get(machine.id))
        for machine in contents.machines:
            if machine.parked and machine.state == states.STOPPED:
                try:
                    await self._engine.ask(machine.id, lambda now: lifecycle.start(now, source="flyd"))
                except Problem as problem:
                    log.error("agent.not_unparked", extra={"machine": machine.id, "reason": str(problem)})

    async def _readmit(self, machine: Machine) -> None:
        """One link that is broken is one Machine without a network, not an agent that does not start."""
        try:
            await self._network.readmit(attachment_of(machine))
        except (Problem, OSError) as error:
            log.error("agent.not_readmitted", extra={"machine": machine.id, "reason": str(error)})

    async def _sweep(self, contents: Contents) -> None:
        """Take down sandboxes, namespaces, roots and snapshots that belong to no Machine."""
        assert self._pods is not None
        # Also what is being destroyed: how it ended is still to be recorded.
        ours = {id for machine in contents.machines for id in (machine.run_id, machine.root_of) if id}

        def unwanted(ids: frozenset[str] | set[str]) -> list[str]:
            return [
                id
                for id in sorted(ids)
                if id.partition(".")[0] not in ours and id.partition("-")[0] not in contents.quarantined
            ]

        for id in unwanted(await self._pods.known()):
            log.warning("agent.swept", extra={"sandbox": id})
            await self._take_down(partial(self._pods.destroy, id), sandbox=id)
        for id in unwanted(await self._network.known()):
            log.warning("agent.swept", extra={"namespace": id})
            await self._take_down(partial(self._network.discard, id), namespace=id)
        kept = {machine.id for machine in contents.machines if machine.state != states.DESTROYED}
        for name in unwanted(self._images.roots.known()):
            if root.kept_for(name) not in kept:
                log.warning("agent.swept", extra={"root": name})
                await self._take_down(partial(self._images.roots.unmount, name), root=name)
        for key in unwanted(self._snapshots.known()):
            log.warning("agent.swept", extra={"snapshot": key})
            await self._take_down(partial(self._snapshots.remove, key), snapshot=key)
        self._checks.sweep(ours)
        self._remove_stale_files(ours)

    async def _take_down(self, removal: Callable[[], Awaitable[None]], **what: str) -> None:
        """What cannot be taken down now is tried again later; it must not keep the agent from starting."""
        try:
            await removal()
        except (Problem, OSError) as error:
            log.error("agent.not_swept", extra={**what, "reason": str(error)})
            self._strays.append((removal, what))

    async def _sweep_again(self) -> None:
        """Names of incarnations are never used twice, so what belonged to nobody belongs to nobody."""
        pause_s = _SWEEP_AGAIN_S
        while self._strays:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _FORGET_EVERY_S)
            strays, self._strays = self._strays, []
            for removal, what in strays:
                await self._take_down(removal, **what)

    def _remove_stale_files(self, ours: set[str]) -> None:
        directory = self._settings.run_dir / "etc"
        if not directory.is_dir():
            return
        for entry in directory.iterdir():
            if entry.name not in ours:
                for file in entry.iterdir():
                    file.unlink()
                entry.rmdir()

    def _register(self) -> None:
        self._dispatcher.handle(contract.HOST_STATUS, self._status)
        self._dispatcher.handle(contract.PARK_HOST, self._park)

    async def _serve_bus(self) -> None:
        """After each (re)connection. Subscriptions survive reconnections by themselves, so they are made once."""
        if self._subscribed:
            return
        self._subscribed = True
        await self._dispatcher.serve_bus(self._bus, contract.host_prefix(self._settings.host_id))
        await self._bus.client.subscribe(contract.BIDS, cb=self._on_bid)

    async def _on_bid(self, message: Msg) -> None:
        assert self._machines is not None
        try:
            request = contract.BidRequest.model_validate_json(message.data)
        except ValueError as error:
            log.warning("agent.bad_bid_request", extra={"reason": str(error)[:200]})
            return
        await message.respond(self._machines.bid(request).model_dump_json().encode())

    async def _status(self, request: contract.Nothing) -> contract.HostStatus:
        assert self._engine is not None
        return contract.HostStatus(
            host_id=self._settings.host_id,
            region=self._settings.region,
            machines=dict(Counter(machine.state for machine in self._engine.machines.values())),
            drivers=self._entry().drivers,
            isolation=self._entry().isolation,
            facts={
                "bus": "connected" if self._bus.connected else "away",
                "cpus": self._capacity.cpus,
                "memory_mb": self._capacity.memory_mb,
                "disk_free_mb": free_disk_mb(self._settings.data_dir),
                "firewall": self._network.firewall,
            },
        )

    async def _park(self, request: contract.Nothing) -> contract.Parked:
        """Stop everything that runs, remembering it."""
        assert self._engine is not None
        engine = self._engine
        running = [m.id for m in engine.machines.values() if m.state in (states.STARTED, states.RESTARTING)]
        await asyncio.gather(*(engine.ask(id, lifecycle.park) for id in running))
        for id in list(engine.machines):
            await engine.settled(id)
        return contract.Parked(machines=len(running))

    async def _publish(self, machine: Machine) -> int:
        self._logs.watch(machine.id, from_start=True)
        self._doors.follow(machine)
        shown = self._shown(machine)
        return await self._publication.put(f"{MACHINE}.{machine.id}", shown.to_record())

    def _shown(self, machine: Machine) -> Machine:
        """As others see it: with what its checks found, and the states of its containers."""
        shown = self._checks.follow(machine)
        names = [program.name for program in machine.config.programs if program.image]
        if not names or self._pods is None:
            return shown
        found = {name: [one.status == PASSING for one in shown.checks if one.container == name] for name in names}
        self._pods.heard(machine.run_id, {name: bool(passed) and all(passed) for name, passed in found.items()})
        states_now = dict(self._pods.states(machine.run_id)) if machine.run_id else {}
        down = states.CREATED if machine.newest("start") is None else states.STOPPED
        return replace(shown, containers=tuple((name, states_now.get(name, down)) for name in names))

    async def _tell_of_run(self, run_id: str) -> None:
        machine = self._find(run_id.partition("-")[0])
        if machine is not None and machine.run_id == run_id:
            await self._publish(machine)

    async def _publish_again(self, machine_id: str) -> None:
        machine = self._find(machine_id)
        if machine is not None:
            await self._publish(machine)

    async def _answer_machine(self, machine_id: str, request: Request) -> Answer:
        assert self._calls is not None
        return await self._calls.answer(machine_id, request)

    async def _probe(self, check: CheckConfig, address: str, run_id: str) -> Finding:
        if check.type != "exec":
            return await self._computer.probe(check, address)
        assert self._pods is not None
        command = Command(argv=check.command, timeout_s=check.timeout_s, container=check.container)
        try:
            result = await self._pods.execute(run_id, command)
        except Problem as problem:
            return Finding(False, problem.text)
        said = (result.stdout or result.stderr)[:OUTPUT_MAX].decode(errors="replace").replace("\0", "").strip()
        passed = result.exit_code == 0
        return Finding(passed, said if passed else f"exit code {result.exit_code}: {said}".removesuffix(": "))

    async def _end_container(self, run_id: str, container: str) -> None:
        assert self._pods is not None
        await self._pods.end_one(run_id, container)

    def _check_room(self, machine: Machine) -> None:
        assert self._engine is not None
        self._capacity.check(machine, self._engine.machines.values())

    def _find(self, machine_id: str) -> Machine | None:
        return self._engine.machines.get(machine_id) if self._engine else None

    def _driver_of(self, run_id: str) -> str | None:
        machine = self._find(run_id.partition("-")[0])
        return machine.driver if machine is not None and machine.run_id == run_id else None

    async def _reopen_log(self, machine: Machine) -> None:
        if self._pods is not None and machine.run_id:
            await self._pods.reopen_log(machine.run_id)

    def _entry(self) -> HostEntry:
        return HostEntry(
            id=self._settings.host_id,
            name=self._settings.host_name or host_name(),
            region=self._settings.region,
            drivers=self._choice.drivers,
            isolation=self._choice.offers,
            cpus=self._capacity.cpus,
            memory_mb=self._capacity.memory_mb,
            version=caddisfly.__version__,
        )

    def _owns(self, key: str, value: Mapping[str, Any]) -> bool:
        kind, _, name = key.partition(".")
        return (kind == MACHINE and value.get("host_id") == self._settings.host_id) or (
            kind == HOST and name == self._settings.host_id
        )

    async def _beat(self) -> None:
        while True:
            try:
                await self._bus.publish(contract.beat_subject(self._settings.host_id), b"")
            except Unavailable:
                log.debug("agent.beat_skipped")
            await asyncio.sleep(self._settings.beat_s)

    async def _forget_destroyed(self) -> None:
        while True:
            await asyncio.sleep(_FORGET_EVERY_S)
            await self._forget_old()

    async def _forget_old(self) -> None:
        assert self._engine is not None
        limit = wall_ms() - self._settings.destroyed_kept_s * 1000
        for machine in list(self._engine.machines.values()):
            if machine.state != states.DESTROYED or machine.updated_ms > limit:
                continue
            try:
                await self._engine.forget(machine.id)
                self._leases.forget(machine.id)
                await self._publication.remove(f"{MACHINE}.{machine.id}")
                await self._logs.forget(machine.id)
            except Problem as problem:
                log.warning("agent.not_forgotten", extra={"machine": machine.id, "reason": str(problem)})
        try:
            await self._vault.forget_unneeded(self._engine.machines.values(), self._engine.operations)
        except Problem as problem:
            log.warning("agent.secrets_not_forgotten", extra={"reason": str(problem)})


def main(
    settings: HostSettings,
    images: ImageSettings | None = None,
    *,
    builds: BuildSettings | None = None,
    registry: Destination | None = None,
    repositories: Repositories | None = None,
) -> None:
    """Run until SIGTERM or SIGINT. Not on uvloop, whose forks of a process of this size take 6 ms and asyncio's 0.7."""
    computer = ThisComputer(settings, images, builds=builds, registry=registry, repositories=repositories)
    asyncio.run(_run(Agent(settings, computer, builds=builds)))


async def _run(agent: Agent) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await agent.start()
    try:
        await stopping.wait()
    finally:
        await agent.stop()
