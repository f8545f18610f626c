"""A host without an agent: it serves the contract over a real bus and keeps its Machines in a dict.

It makes the transitions that the agent would make, as fast as it can, unless it is told to hold them. What it does
with processes is nothing; what it shows to control is what a host shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from caddisfly.bus import contract
from caddisfly.bus.catalog import HostEntry, Publication
from caddisfly.bus.connection import Bus
from caddisfly.bus.line import Line
from caddisfly.bus.rpc import Dispatcher
from caddisfly.host.builds.build import Build
from caddisfly.model import ids, states
from caddisfly.model.config import Config
from caddisfly.model.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound, Problem, Unimplemented
from caddisfly.model.machine import ImageRef, Machine, rfc3339, wall_ms
from tests.builds.factories import a_build
from tests.conftest import eventually


class FakeHost:
    """`memory_mb` is what it may promise to Machines. `failing[method]` is raised in place of an answer."""

    def __init__(
        self, *, url: str, token: str, region: str = "ams", memory_mb: int = 8_000_000, isolation: str = ""
    ) -> None:
        """`isolation` is all that it offers. Empty: it is of a version that does not say."""
        self.id, self.region, self.memory_mb, self.isolation = ids.host_id(), region, memory_mb, isolation
        self.bus = Bus(url=url, token=token, name=f"host-{self.id}")
        self.machines: dict[str, Machine] = {}
        self.failing: dict[str, Problem] = {}
        self.calls: list[tuple[str, Any]] = []
        self.given: dict[str, contract.SecretSet | None] = {}
        """The secrets of each Machine, as they came."""
        self.lines: dict[str, list[dict[str, Any]]] = {}
        self.go = asyncio.Event()
        """Cleared, Machines stay in their transient states."""
        self.go.set()
        self.answering = asyncio.Event()
        """Cleared, calls are acted upon and not answered."""
        self.answering.set()
        self.reading = asyncio.Event()
        """Cleared, an attached command reads nothing."""
        self.reading.set()
        self.urgent: list[dict[str, Any]] = []
        """What attached commands were told beside their input."""
        self.hung_up: list[str] = []
        """Why attached commands lost who was attached."""
        self.bids = True
        self.builds: dict[str, Build] = {}
        self.build_lines: list[dict[str, Any]] = []
        self.builds_here = True
        self._dispatcher = Dispatcher()
        self._publication = Publication(self.bus, owner=self.id, owns=self._owns, every_s=5)
        self._tasks: set[asyncio.Task[None]] = set()
        self._beat: asyncio.Task[None] | None = None
        self._market: Subscription | None = None
        for method, handler in (
            (contract.CREATE_MACHINE, self.create),
            (contract.UPDATE_MACHINE, self.update),
            (contract.START_MACHINE, self.start_machine),
            (contract.STOP_MACHINE, self.stop_machine),
            (contract.RESTART_MACHINE, self.restart),
            (contract.SIGNAL_MACHINE, self.signal),
            (contract.DESTROY_MACHINE, self.destroy),
            (contract.EXEC_MACHINE, self.exec),
            (contract.ATTACH_MACHINE, self.attach),
            (contract.READ_LOGS, self.read_logs),
            (contract.RESOLVE_IMAGE, self.resolve),
            (contract.START_BUILD, self.start_build),
            (contract.SHOW_BUILD, self.show_build),
            (contract.LIST_BUILDS, self.list_builds),
            (contract.CANCEL_BUILD, self.cancel_build),
            (contract.READ_BUILD_LOG, self.read_build_log),
        ):
            self._dispatcher.handle(method, self._told(method.name, handler))  # type: ignore[type-var]

    def _told(self, name: str, handler: Any) -> Any:
        async def told(request: Any) -> Any:
            self.calls.append((name, request))
            if name in self.failing:
                raise self.failing[name]
            answer = await handler(request)
            await self.answering.wait()
            return answer

        return told

    async def start(self) -> None:
        self.bus.open()
        await eventually(lambda: self.bus.connected)
        entry = HostEntry(
            id=self.id,
            name=self.id,
            region=self.region,
            drivers=("fake",),
            cpus=64,
            memory_mb=self.memory_mb,
            version="0",
        )
        self._publication.want(f"host.{self.id}", entry.model_dump(mode="json"))
        self._publication.start()
        await self._publication.put(f"host.{self.id}", entry.model_dump(mode="json"))
        await self._dispatcher.serve_bus(self.bus, contract.host_prefix(self.id))
        self._market = await self.bus.client.subscribe(contract.BIDS, cb=self._bid)
        self.start_beating()

    def start_beating(self) -> None:
        self._beat = asyncio.create_task(self._beating())

    def stop_beating(self) -> None:
        assert self._beat is not None
        self._beat.cancel()

    async def stop(self) -> None:
        self.stop_beating()
        await self._publication.stop()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._dispatcher.close()
        await self.bus.close()

    async def _beating(self) -> None:
        while True:
            if self.bus.connected:
                await self.bus.publish(contract.beat_subject(self.id), b"")
            await asyncio.sleep(0.1)

    def _owns(self, key: str, value: Mapping[str, Any]) -> bool:
        return key == f"host.{self.id}" or value.get("host_id") == self.id

    async def _bid(self, message: Msg) -> None:
        request = contract.BidRequest.model_validate_json(message.data)
        if not self.bids:
            return
        free = self._free_mb()
        lacking = request.memory_mb > free
        bid = contract.Bid(
            host_id=self.id,
            region=self.region,
            score=0.0 if lacking else float(free),
            refusal="insufficient memory" if lacking else "" if self.region in request.regions else "not in region",
            isolation=self.isolation,
        )
        await message.respond(bid.model_dump_json().encode())

    def _free_mb(self) -> int:
        if self.memory_mb >= 1_000_000:
            return self.memory_mb  # nobody counts on so large a one, and counting a thousand Machines takes long
        return self.memory_mb - sum(m.config.guest.memory_mb for m in self.machines.values() if m.alive)

    async def put(self, machine: Machine) -> contract.MachineReply:
        self.machines[machine.id] = machine
        record = machine.to_record()
        return contract.MachineReply(
            record=record, revision=await self._publication.put(f"machine.{machine.id}", record)
        )

    def _get(self, machine_id: str) -> Machine:
        machine = self.machines.get(machine_id)
        if machine is None or machine.state == states.DESTROYED:
            raise NotFound("machine not found")
        return machine

    def _later(self, work: Callable[..., Awaitable[None]], *args: Any, **options: Any) -> None:
        async def run() -> None:
            await self.go.wait()
            await work(*args, **options)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def create(self, call: contract.CreateMachine) -> contract.MachineReply:
        if call.machine_id in self.machines:
            machine = self.machines[call.machine_id]
            return contract.MachineReply(record=machine.to_record())
        self.given[call.machine_id] = call.secrets
        config = Config(call.config)
        if config.guest.memory_mb > self._free_mb():
            raise Aborted("insufficient memory available")
        for other in self.machines.values():
            if other.app_id == call.app.id and other.name == call.name and other.alive:
                raise AlreadyExists(f"machine ID {other.id} already exists")
        now = wall_ms()
        machine = Machine(
            id=call.machine_id,
            name=call.name,
            app_name=call.app.name,
            app_id=call.app.id,
            org_id=call.app.org_id,
            org_slug=call.app.org_slug,
            network_id=call.app.network_id,
            host_id=self.id,
            region=self.region,
            state=states.CREATED,
            instance_id=ids.ulid(),
            config=config,
            image=ImageRef(
                registry="registry-1.docker.io", repository="library/x", tag="latest", digest="sha256:" + "0" * 64
            ),
            private_ip=f"fdaa:0:{call.app.network_id:x}::2",
            ipv4="172.20.0.2",
            created_ms=now,
            updated_ms=now,
            cordoned=call.skip_service_registration,
        ).with_event("launch", "created", source="user")
        reply = await self.put(machine)
        self._later(self._rest if call.skip_launch else self._run, machine.id)
        return reply

    async def _rest(self, machine_id: str) -> None:
        await self.put(replace(self.machines[machine_id], state=states.STOPPED))

    async def _run(self, machine_id: str) -> None:
        machine = self.machines[machine_id]
        if machine.state in (states.DESTROYING, states.DESTROYED):
            return
        machine = replace(machine, state=states.STARTING).with_event("start", "starting", source="user")
        await self.put(machine)
        await self.put(replace(machine, state=states.STARTED).with_event("start", "started", source="flyd"))

    async def exit(self, machine_id: str, *, code: int, requested: bool = False, signal: int = -1) -> None:
        """The main process ended."""
        machine = self.machines[machine_id]
        request = {
            "exit_event": {
                "exit_code": code,
                "guest_exit_code": code,
                "guest_signal": signal,
                "guest_error": "",
                "oom_killed": False,
                "requested_stop": requested,
                "restarting": False,
                "signal": signal,
                "error": "",
                "exited_at": rfc3339(wall_ms()),
            },
            "restart_count": 0,
        }
        machine = machine.with_event("exit", "stopped", source="flyd", request=request)
        if machine.config.auto_destroy:
            await self.put(replace(machine, state=states.DESTROYING))
            await self._destroyed(machine_id)
        else:
            await self.put(replace(machine, state=states.STOPPED))

    async def _destroyed(self, machine_id: str) -> None:
        machine = self.machines[machine_id].with_event("destroy", "destroyed", source="flyd")
        await self.put(replace(machine, state=states.DESTROYED))

    async def update(self, call: contract.UpdateMachine) -> contract.MachineReply:
        machine = self._get(call.machine_id)
        if call.current_version and call.current_version != machine.instance_id:
            raise Aborted("machine update failed due to concurrent update")
        self.given[machine.id] = call.secrets
        ran = machine.state == states.STARTED
        machine = replace(
            machine, config=Config(call.config), instance_id=ids.ulid(), state=states.REPLACING
        ).with_event("update", "replacing", source=call.source)
        reply = await self.put(machine)
        runs = ran and not call.skip_launch
        self._later(self._run if runs else self._rest, machine.id)
        return reply

    async def start_machine(self, call: contract.MachineCall) -> contract.StartReply:
        machine = self._get(call.machine_id)
        if machine.state == states.STARTED:
            return contract.StartReply(record=machine.to_record(), previous_state=machine.state)
        if machine.state not in states.STARTABLE:
            raise FailedPrecondition(f"unable to start machine from current state: '{machine.state}'")
        reply = await self.put(
            replace(machine, state=states.STARTING).with_event("start", "starting", source=call.source)
        )
        self._later(self._run, machine.id)
        return contract.StartReply(record=reply.record, revision=reply.revision, previous_state=machine.state)

    async def stop_machine(self, call: contract.StopMachine) -> contract.MachineReply:
        machine = self._get(call.machine_id)
        if machine.state == states.STOPPED:
            return contract.MachineReply(record=machine.to_record())
        reply = await self.put(
            replace(machine, state=states.STOPPING).with_event("stop", "stopping", source=call.source)
        )
        self._later(self.exit, machine.id, code=0, requested=True)
        return reply

    async def restart(self, call: contract.StopMachine) -> contract.MachineReply:
        machine = self._get(call.machine_id)
        reply = await self.put(replace(machine, state=states.RESTARTING))
        self._later(self._run, machine.id)
        return reply

    async def signal(self, call: contract.SignalMachine) -> contract.Nothing:
        machine = self._running(call.machine_id)
        if call.signal == "SIGKILL":
            self._later(self.exit, machine.id, code=137, signal=9)
        return contract.Nothing()

    async def destroy(self, call: contract.DestroyMachine) -> contract.MachineReply:
        machine = self._get(call.machine_id)
        allowed = (states.STOPPED, states.SUSPENDED, states.FAILED, states.CREATED, states.DESTROYING)
        if not call.force and machine.state not in allowed:
            raise FailedPrecondition("unable to destroy machine, not currently stopped, suspended, failed or created")
        reply = await self.put(replace(machine, state=states.DESTROYING))
        self._later(self._destroyed, machine.id)
        return reply

    async def exec(self, call: contract.ExecMachine) -> contract.ExecReply:
        self._running(call.machine_id)
        code = 7 if call.command == ("sh", "-c", "exit 7") else 0
        return contract.ExecReply(exit_code=code, stdout=" ".join(call.command), stderr=call.stdin)

    async def attach(self, call: contract.AttachMachine) -> contract.AttachReply:
        """A command that prints what it reads, and ends with 7 when there is no more."""
        self._running(call.machine_id)
        line = Line(self.bus, name=call.machine_id, urgent=lambda message: self.urgent.append(message))
        await line.open()
        line.connect(call.subject)
        task = asyncio.create_task(self._echo(line))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return contract.AttachReply(subject=line.subject)

    async def _echo(self, line: Line) -> None:
        try:
            while data := (await line.receive())[1]:
                await self.reading.wait()
                await line.send(contract.STDOUT, data)
                await line.taken(len(data))
            await line.send(contract.EXIT, b"7")
        except Problem as problem:
            self.hung_up.append(str(problem))
        finally:
            await line.close()

    async def resolve(self, request: contract.ResolveImage) -> contract.ImageFound:
        image = {"registry": "docker.io", "repository": request.name, "tag": "", "digest": "sha256:1", "labels": None}
        return contract.ImageFound(image=image, reference=f"docker.io/{request.name}@sha256:1")

    async def read_logs(self, call: contract.ReadLogs) -> contract.LogLines:
        return contract.LogLines(lines=tuple(self.lines.get(call.machine_id, [])[-call.limit :]))

    async def start_build(self, call: contract.StartBuild) -> contract.BuildReply:
        if not self.builds_here:
            raise Unimplemented("this host does not build")
        if call.build_id not in self.builds:
            build = a_build(
                id=call.build_id,
                app_id=call.app.id,
                app_name=call.app.name,
                org_id=call.app.org_id,
                context=call.context,
                tag=call.tag,
                args=call.args,
                secret_names=tuple(call.secrets),
            )
            self.builds[build.id] = build
        return contract.BuildReply(build=self.builds[call.build_id].to_wire())

    async def show_build(self, call: contract.BuildCall) -> contract.BuildReply:
        return contract.BuildReply(build=self._build(call).to_wire())

    async def list_builds(self, call: contract.ListBuilds) -> contract.BuildList:
        found = [build.to_wire() for build in self.builds.values() if build.app_id == call.app_id]
        return contract.BuildList(builds=tuple(found))

    async def cancel_build(self, call: contract.BuildCall) -> contract.BuildReply:
        build = self._build(call)
        self.builds[build.id] = build if build.ended else build.cancel(wall_ms())
        return contract.BuildReply(build=self.builds[build.id].to_wire())

    async def read_build_log(self, call: contract.ReadBuildLog) -> contract.BuildLogPage:
        build = self._build(call)
        lines = self.build_lines[call.offset :]
        return contract.BuildLogPage(
            lines=tuple(lines),
            next_offset=call.offset + len(lines),
            state=build.state,
            ended=build.ended and not lines,
        )

    def _build(self, call: contract.BuildCall) -> Build:
        build = self.builds.get(call.build_id)
        if build is None or build.app_id != call.app_id:
            raise NotFound("build not found")
        return build

    def _running(self, machine_id: str) -> Machine:
        machine = self._get(machine_id)
        if machine.state != states.STARTED:
            raise FailedPrecondition("machine not running")
        return machine
