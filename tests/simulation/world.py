"""One simulated world: a host with its real agent, a bus, somebody who calls, and everything that can go wrong.

Real are `host/agent.py` with all it does when it starts, `host/machines.py`, the engine with lifecycle, plans and
steps, and all of `bus/`: calls, publication, projection. Simulated is what they stand on: time, the journal's disk,
driver, images, roots, links, and NATS.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from caddisfly.bus import connection, contract
from caddisfly.bus.connection import Bus
from caddisfly.bus.projection import Projection
from caddisfly.bus.rpc import BusCaller, Dispatcher
from caddisfly.host import agent as agent_module
from caddisfly.host import capacity as capacity_module
from caddisfly.host.agent import Agent
from caddisfly.host.capacity import Capacity
from caddisfly.host.checks.probe import Finding
from caddisfly.host.drivers.driver import Sandbox
from caddisfly.host.drivers.several import DriverOf, Several
from caddisfly.host.guest import Surroundings
from caddisfly.host.journal.journal import Contents
from caddisfly.host.operations.engine import Engine
from caddisfly.host.settings import HostSettings
from caddisfly.model import ids, states
from caddisfly.model.check import CheckConfig
from caddisfly.model.config import Config
from caddisfly.model.errors import Problem
from caddisfly.model.isolation import CONTAINER
from caddisfly.model.machine import Machine
from tests.simulation import chaos, invariants
from tests.simulation.bus import Server, SimClient
from tests.simulation.disk import Disk, SimJournal, SimNotes
from tests.simulation.loop import Process, SimLoop
from tests.simulation.rooms import Rooms, SimDriver, SimImages, SimLinks, SimSnapshots, compile_simulated

HOST_ID = "0a7b0018"
_BOUND_S = 900.0
"""Virtual seconds in which everything must have come to rest. The longest honest path is a few retried operations."""
_TRACE_KEPT = 1000
_CALM = 0.02
"""Probability that the faults stop after an operation until all was judged: an agent that dies later may cure it."""
_OF_A_MACHINE = re.compile(r"-[0-9a-f]{14}")


class Violation(AssertionError):
    """Something that may never happen did."""


class SimCapacity(Capacity):
    """A host of a fixed size, too small for all Machines at once."""

    def __init__(self, settings: HostSettings) -> None:
        super().__init__(settings)
        self.cpus, self.memory_mb = 4, 512 + 4 * 256


class SimComputer:
    """What an agent is built on: the rooms of the world."""

    runs_programs = False
    workshop = None

    def __init__(self, world: World) -> None:
        self._world = world
        self.capacity = SimCapacity(world.settings)
        self.journal: Any = SimJournal(world)
        self.images: Any = SimImages(world)
        self.links = SimLinks(world)

    async def open(self, driver_of: DriverOf) -> Several:
        await self.links.open()
        await self.images.open()
        # Each agent is set to another driver than the one before it, for what starts under it.
        drivers = [SimDriver(self._world, name) for name in ("simulated/one", "simulated/two")]
        now = self._world.boots % len(drivers)
        return Several({CONTAINER: drivers.pop(now)}, driver_of=driver_of, others=drivers)

    async def close(self) -> None:
        await self.images.close()

    def accept(self, config: Config) -> tuple[str, ...]:
        return ()

    async def probe(self, check: CheckConfig, address: str) -> Finding:
        return Finding(True, "simulated")

    def compile(self, machine: Machine, surroundings: Surroundings) -> Sandbox:
        return compile_simulated(machine, surroundings)


class NullServer:
    """Nobody calls on the socket of the host."""

    def close(self) -> None: ...


class SimDispatcher(Dispatcher):
    """Answers on the bus only."""

    async def serve_unix(self, path: Path) -> Any:
        return NullServer()


class NullLogs:
    """Consoles are not simulated."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def watch(self, machine_id: str, *, from_start: bool) -> None: ...

    async def forget(self, machine_id: str) -> None: ...


class World:
    """Built from a seed. `run` plays the whole run and raises `Violation`."""

    def __init__(self, seed: int, *, operations: int, directory: Path) -> None:
        self.seed, self.operations = seed, operations
        self.chance = random.Random(seed)
        self.loop = SimLoop(self.chance, shuffle=self.chance.choice((0.0, 0.2, 1.0)))
        self.settings = HostSettings(data_dir=directory, run_dir=directory, host_id=HOST_ID, destroyed_kept_s=60)
        self.complaints: list[str] = []
        self.trace: list[tuple[float, str, str, object]] = []
        self.disk = Disk(self.complain)
        self.notes = SimNotes(self.disk, before=self.moment)
        self.rooms = Rooms(self)
        self.server = Server(self)
        self.faults = True
        self.trouble = self.chance.choice((0.0, 0.02, 0.1, 0.3))
        """Probability that a call of a room fails."""
        self.weather = chaos.Weather.drawn(self.chance)
        self.journal: SimJournal | None = None
        self.process: Process | None = None
        self.agent: Agent | None = None
        self.projection: Projection
        self.sweeping = False
        self.patience_s = 0.02
        """Seconds before an agent that is gone is started again: longer when it could not start."""
        self.destroys: set[str] = set()
        """Machines whose destroy was accepted."""
        self.created: list[str] = []
        self.calls = self.boots = 0
        self._effects = 0
        self._client = Process("client")
        self._calls: set[asyncio.Task[None]] = set()

    # What the simulated rooms ask of the world.

    def happens(self, probability: float) -> bool:
        return self.chance.random() < probability

    def moment(self, what: str) -> None:
        """A moment of a kind for which bad luck may lie in wait."""
        for strike, probability in self.weather.ambushes.get(what, ()):
            if self.faults and self.happens(probability):
                strike(self)

    def brief(self) -> float:
        """How long something local takes, in seconds: mostly a few milliseconds."""
        return self.chance.random() ** 3 * 0.02

    def distance(self) -> float:
        """How long a message takes. Now and then long enough for others to overtake it."""
        return self.chance.random() * (0.5 if self.faults and self.happens(0.05) else 0.005)

    def next_effect(self) -> int:
        self._effects += 1
        return self._effects

    def note(self, what: str, id: str = "", detail: object = "") -> None:
        self.trace.append((self.loop.time(), what, id, detail))

    def complain(self, what: str) -> None:
        self.note("VIOLATION", "", what)
        self.complaints.append(what)

    def shown(self, id: str, event_id: str, where: str) -> None:
        """Somebody outside the agent sees this Machine with this newest event: that must have been durable."""
        known = self.disk.history.get(id)
        if known is None or event_id not in known:
            self.complain(f"{id} was shown ({where}) before that was durable")

    @property
    def engine(self) -> Engine | None:
        return self.agent._engine if self.agent is not None else None

    # The agent's life.

    def boot(self) -> None:
        if self.process is not None and not self.process.dead:
            return
        self.boots += 1
        self.process = process = Process("agent", on_death=self._died)
        self.note("boot")
        self.loop.spawn(process, self._agent(process), name="agent")

    async def _agent(self, process: Process) -> None:
        agent = Agent(self.settings, SimComputer(self))
        try:
            await agent.start()
        except (Problem, OSError, TimeoutError) as error:
            self.note("agent-failed", "", repr(error))
            self.patience_s = 1.0
            process.kill()
            return
        self.agent = agent
        self.note("ready")

    def _died(self, process: Process) -> None:
        """SIGKILL. What was on its way to the world arrives or does not."""
        self.note("crash")
        self.agent, self.sweeping = None, False
        effects, process.effects = dict(process.effects), {}
        for mark, effect in effects.items():
            if self.happens(0.5):
                process.effects[mark] = effect
                effect()
        if self.journal is not None:
            self.journal.lost()
        for client in list(self.server.clients):
            if client._process is process:
                client.cut()
                client.forget()
        self.loop.later(self.patience_s + self.chance.random() ** 3, self.boot)
        self.patience_s = 0.02

    # Who calls.

    def call(self, method: contract.Method[Any, Any], request: Any) -> None:
        self.calls += 1
        task = self.loop.spawn(self._client, self._call(method, request), name=f"call-{method.name}")
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, method: contract.Method[Any, Any], request: Any) -> None:
        id = request.machine_id
        self.note(method.name, id)
        try:
            reply = await self._caller.call(method, request)
        except Problem as problem:
            self.note(f"{method.name} refused", id, repr(problem))
            if method is contract.CREATE_MACHINE and problem.code == "already_exists" and id in str(problem):
                self.complain(f"{id} was refused because of itself")
            if problem.code == "unknown":
                self.complain(f"{method.name} of {id} met a bug: {problem.why or problem}")
            return
        record = getattr(reply, "record", None)
        if record is None:
            return
        self.note(f"{method.name} accepted", id, record["state"])
        self.shown(id, record["events"][0]["id"], f"reply to {method.name}")
        if method is contract.DESTROY_MACHINE:
            self.destroys.add(id)
        await self._read_back(record, reply.revision)

    async def _read_back(self, record: dict[str, Any], revision: int) -> None:
        """Read your writes: a copy that has come as far as the reply's revision has what the reply said."""
        bucket = str(self.server.created)
        if not revision or not await self.projection.wait_for(revision, timeout_s=5):
            return
        seen = self.projection.machines.get(record["id"])
        # A revision says nothing about another bucket: right after the server lost everything, copies lag behind.
        same = bucket == str(self.server.created) == self.projection._bucket and self.server.exists
        there = record["id"] in self.disk.machines
        if same and there and (seen is None or _newest(seen) < record["events"][0]["id"]):
            self.complain(f"{record['id']}: an accepted write cannot be read at its revision")

    def _told(self, old: Machine | None, new: Machine | None) -> None:
        """The projection changed. It never goes back, except when the bucket was lost."""
        if old is not None and new is not None and old.state == states.DESTROYED and new.state != states.DESTROYED:
            self.complain(f"{new.id} came back from destroyed in the projection")

    async def play(self) -> None:
        """The whole run: calls and faults, then quiet, then judgement."""
        self._bus = Bus(url="nats://simulated", token="", name="client")
        self._caller = BusCaller(self._bus, contract.host_prefix(HOST_ID))
        self.projection = Projection(self._bus)
        self._bus.open()
        self.projection.start()
        self.projection._listeners.append(self._told)
        self.boot()
        await asyncio.sleep(0.5)
        for _ in range(self.operations):
            chaos.step(self)
            await asyncio.sleep(chaos.pause(self))
            if self.happens(_CALM):
                await self._calm()
                self.faults = True
            if self.complaints:
                return
        await self._calm()
        if not self.complaints and self.happens(0.2):
            # What is at rest stays so over one more crash.
            assert self.process is not None
            self.process.kill()
            await asyncio.sleep(2)
            await self._settle()
        self.complaints += invariants.broken_histories(self)

    async def _calm(self) -> None:
        """No bad luck any more, and everything is judged."""
        self.note("quiet")
        self.faults = False
        self.disk.full = False
        self.server.start()
        if self.process is not None:
            self.process.fuse = 0
        await self._settle()

    async def _settle(self) -> None:
        until = self.loop.time() + _BOUND_S
        pause = 1.0
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 15.0)
            left = [] if self._calls else invariants.unsettled(self)
            if not left and not self._calls:
                return
            if self.loop.time() > until:
                for problem in left or [f"a call never ends: {task.get_name()}" for task in self._calls]:
                    self.complain(problem)
                return

    def run(self) -> None:
        """Play it. Raises `Violation` with the seed and the trace."""
        with simulated(self):
            try:
                asyncio.set_event_loop(None)
                self.loop.run_until_complete(self.loop.spawn(self._client, self.play(), name="play"))
                self.complaints += [*self.loop.errors, *_died_silently(self.loop)]
            finally:
                self.loop.bury()
        if self.complaints:
            raise Violation(self.report())

    def report(self) -> str:
        said = list(dict.fromkeys(self.complaints))
        lines = [f"seed {self.seed}, {self.operations} operations:", *said, ""]
        for id, events in self.disk.history.items():
            if any(id in complaint for complaint in said):
                path = " ".join(f"{event.type}/{event.status}" for event in events.values())
                lines += [f"events of {id}: {path}", ""]
        lines.append("trace:")
        cut = len(self.trace) - _TRACE_KEPT
        if cut > 0:
            lines.append(f"... {cut} lines before")
        lines += [f"{at:10.4f} {what:24} {id} {detail}" for at, what, id, detail in self.trace[-_TRACE_KEPT:]]
        return "\n".join(lines)


def _died_silently(loop: SimLoop) -> Iterator[str]:
    """Operations and watchers that ended by an exception: nobody awaits them, so nobody would ever know."""
    for task in loop._kept:
        if task.done() and task._log_traceback and _OF_A_MACHINE.search(task.get_name()):  # type: ignore[attr-defined]
            yield f"task {task.get_name()} died: {task.exception()!r}"


class _Secrets:
    """Randomness of ids, from the seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(-1 - seed)
        self.choice, self.randbelow = self._chance.choice, self._chance.randrange
        self.randbits = self._chance.getrandbits

    def token_hex(self, count: int) -> str:
        return f"{self._chance.getrandbits(8 * count):0{2 * count}x}"


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """Put the world under the product: names of what touches the computer are replaced, nothing else."""
    loop, real_sweep = world.loop, Agent._sweep

    async def sweep(agent: Agent, contents: Contents) -> None:
        world.sweeping = True
        try:
            await real_sweep(agent, contents)
        finally:
            world.sweeping = False

    patches: list[tuple[object, str, Any]] = [
        (time, "time", loop.wall),
        (time, "time_ns", lambda: int(loop.wall() * 1e9)),
        (time, "perf_counter", loop.time),
        (ids, "secrets", _Secrets(world.seed)),
        (ids, "_clock", ids.UlidClock()),
        (connection, "Client", lambda: SimClient(world)),
        (capacity_module, "free_disk_mb", lambda _: 100_000),
        (agent_module, "free_disk_mb", lambda _: 100_000),
        (Agent, "_sweep", sweep),
        (agent_module, "FileNotes", lambda _: world.notes),
        (agent_module, "Snapshots", lambda _: SimSnapshots(world)),
        (agent_module, "boot_id", lambda: str(world.rooms.boot)),
        (agent_module, "LogFollower", NullLogs),
        (agent_module, "Dispatcher", SimDispatcher),
    ]
    with ExitStack() as stack:
        for where, name, what in patches:
            old = getattr(where, name)
            setattr(where, name, what)
            stack.callback(setattr, where, name, old)
        yield


def _newest(machine: Machine) -> str:
    return machine.events[0].id
