"""The rooms around the engine, simulated: sandboxes, images, roots, links. They keep ledgers of what exists.

A call takes time, and its effect comes somewhere in that time. When the agent dies in between, the effect happens or
does not. Faults: a call fails before its effect or after it, once or for a while, in a way that may pass or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caddisfly.host.drivers.driver import (
    Command,
    CommandResult,
    Ended,
    Fingerprint,
    Limits,
    NotSuspended,
    Running,
    Sandbox,
    Stats,
    Unusable,
)
from caddisfly.host.guest import Surroundings
from caddisfly.host.images.image import Image, ImageConfig, ResolvedImage
from caddisfly.host.images.reference import Reference
from caddisfly.host.network.network import Attachment
from caddisfly.host.operations.root import kept_for
from caddisfly.host.operations.root import keys as root_keys
from caddisfly.model import states
from caddisfly.model.errors import FailedPrecondition, Final, InvalidArgument, Unavailable
from caddisfly.model.machine import Exit, Machine
from tests.simulation.loop import PROCESS

if TYPE_CHECKING:
    from tests.simulation.world import World

_REFERENCE = Reference.parse("nginx")
_IMAGE = ResolvedImage(_REFERENCE, "sha256:0", "sha256:0", ImageConfig(cmd=("/bin/app",)), ())
_ROOT, _NETNS = Path("/simulated/root"), Path("/simulated/netns")
_LIMITS = Limits(cores=1.0, weight=100, memory_mb=256, pids=100)
_NO_FILES: tuple[Any, ...] = ()


@dataclass(eq=False)
class Box:
    """One sandbox of the world. `made` means that only traces of it are there: its first process never ran."""

    id: str
    version: str
    root: str = ""
    driver: str = ""
    made: bool = True
    exit: Exit | None = None
    stubborn: bool = False
    stuck_until: float = 0.0
    """Its process is in uninterruptible sleep: nothing kills it before."""
    waiters: list[asyncio.Future[Exit]] = field(default_factory=list)
    count: int = 0
    """What its memory holds: it only ever grows."""
    needed: bool = False
    """Whether a suspend that is under way is to be undone."""
    away: bool = False
    """Whether its memory is on the disk: nothing of it executes any more."""

    @property
    def machine_id(self) -> str:
        return self.id.partition("-")[0]

    @property
    def run_id(self) -> str:
        return self.id.partition(".")[0]

    @property
    def number(self) -> str:
        """Which of several programs it is; empty when it is the only one."""
        return (*self.id.split("."), "")[1]

    @property
    def running(self) -> bool:
        return not self.made and self.exit is None and not self.away


class Rooms:
    """What exists on the host: it outlives the agent."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.boxes: dict[str, Box] = {}
        self.roots: set[str] = set()
        """Those that are mounted."""
        self.kept: dict[str, list[str]] = {}
        """What is on the disk of roots that persist: the incarnations that wrote there."""
        self.written: dict[str, list[str]] = {}
        """What should be there."""
        self.links: set[str] = set()
        self.started: set[str] = set()
        """Every sandbox that ever ran."""
        self.snapshots: dict[str, Saved] = {}
        """What is on the disk of the memory of sandboxes."""
        self.counts: dict[str, int] = {}
        """How far each sandbox ever came."""
        self.dirty: dict[str, int] = {}
        """By root, how often something was written to it: what an incarnation writes there goes with its memory."""
        self.boot = 1

    def running(self) -> list[Box]:
        return [box for box in self.boxes.values() if box.running]

    def begin(self, id: str, version: str, root: str) -> None:
        """The first process of a sandbox runs: the moment in which I1 can break."""
        world = self.world
        box = self.boxes.setdefault(id, Box(id, version))
        if not box.made:
            return
        if id in self.started:
            world.complain(f"incarnation {id} was started twice")
        others = [
            other.id
            for other in self.running()
            if other.machine_id == box.machine_id and (other.run_id != box.run_id or other.number in ("", box.number))
        ]
        if others:
            world.complain(f"{id} was started while {', '.join(others)} runs")
        if box.machine_id in world.disk.destroyed:
            world.complain(f"{id} was started after its Machine was destroyed")
        if root not in self.roots or box.run_id not in self.links:
            world.complain(f"{id} was started without its root or its link")
        self._write(id, root)
        self._work(box, root)
        self.started.add(id)
        box.made = False
        if world.faults:
            box.stubborn = world.happens(0.1)
            if world.happens(0.3):
                world.loop.later(world.chance.expovariate(1 / 3.0), self._by_itself, id)

    def _work(self, box: Box, root: str) -> None:
        """It runs: it counts in its memory, and it writes to its root."""
        box.root = root
        box.count += 1
        self.counts[box.id] = max(box.count, self.counts.get(box.id, 0))
        self.dirty[root] = self.dirty.get(root, 0) + 1

    def save(self, id: str) -> None:
        """Its memory goes to the disk, and it stands still."""
        box = self.boxes.get(id)
        if box is None or not box.running or box.needed:
            return
        box.away = True
        self.snapshots[id] = Saved(count=box.count, root=box.root, dirty=self.dirty[box.root], boot=self.boot)

    def load(self, id: str, version: str, root: str, driver: str) -> None:
        """It runs on from there: the moment in which old memory can meet a new disk."""
        world, saved = self.world, self.snapshots[id]
        if saved.count != self.counts[id]:
            world.complain(f"{id} goes back to {saved.count} after it had come to {self.counts[id]}")
        if saved.damaged:
            world.complain(f"{id} was resumed from memory that is not what was written")
        if saved.dirty != self.dirty.get(root):
            world.complain(f"{id} was resumed on a root that has changed")
        others = [other.id for other in self.running() if other.machine_id == id.partition("-")[0]]
        if others:
            world.complain(f"{id} was resumed while {', '.join(others)} runs")
        if root not in self.roots or id not in self.links:
            world.complain(f"{id} was resumed without its root or its link")
        if id.partition("-")[0] in world.disk.destroyed:
            world.complain(f"{id} was resumed after its Machine was destroyed")
        box = self.boxes[id] = Box(id, version, driver=driver, made=False, count=saved.count)
        self._work(box, root)
        world.moment("loaded")

    def _write(self, id: str, root: str) -> None:
        if not kept_for(root):
            return
        found, expected = self.kept.setdefault(root, []), self.written.setdefault(root, [])
        if found != expected:
            self.world.complain(f"{id} found what {found} wrote, and should find what {expected} did")
        found.append(id)
        expected.append(id)

    def thrown_away(self, key: str) -> None:
        """What was kept is gone. The present version of its Machine must not want it."""
        self.kept.pop(key, None)
        self.written.pop(key, None)
        machine = self.world.disk.machines.get(kept_for(key))
        if machine is None or machine.state in (states.DESTROYING, states.DESTROYED):
            return
        if key in root_keys(machine).values():
            self.world.complain(f"what {machine.id} had kept was thrown away")

    def _by_itself(self, id: str) -> None:
        if self.world.faults:
            self.end(id, self.world.chance.choice((0, 0, 1, 1, 137)))

    def end(self, id: str, code: int) -> None:
        box = self.boxes.get(id)
        if box is None or not box.running:
            return
        now = self.world.loop.time()
        if box.stuck_until > now:
            self.world.loop.later(box.stuck_until - now, self.end, id, code)
            return
        self.world.note("exit", id, code)
        # Which incarnation it was, in a field that the event keeps: so an exit that is recorded twice can be told.
        box.exit = Exit(
            exit_code=code, error=f"run {id}", oom_killed=code == 137, at_ms=int(self.world.loop.wall() * 1000)
        )
        self.world.moment("exit")
        for waiter in box.waiters:
            if not waiter.done():
                waiter.set_result(box.exit)
        box.waiters.clear()

    def intended(self, id: str, what: str) -> None:
        """Intent before effect: what is built for an incarnation must be in the journal."""
        machine = self.world.disk.machines.get(id.partition("-")[0])
        if machine is None or (id.partition(".")[0] != machine.run_id and id not in root_keys(machine).values()):
            self.world.complain(f"{what} of {id} before it was journaled")

    def left_of(self, machine: Machine) -> None:
        """Who is up has nothing left of earlier incarnations, nor of the memory that it was resumed from."""
        there = (*self.boxes, *self.roots, *self.dirty, *self.links)
        old = [id for id in there if not kept_for(id) and id.partition(".")[0] not in (machine.run_id, machine.root_of)]
        for id in (*old, *self.snapshots):
            if id.startswith(f"{machine.id}-"):
                self.world.complain(f"{id} is left, and its Machine runs as {machine.run_id}")

    def unowned(self, id: str) -> None:
        """What is swept must belong to nobody."""
        machine = self.world.disk.machines.get(id.partition("-")[0])
        if machine is None:
            return
        kept = kept_for(id) and machine.state != states.DESTROYED
        if kept or id.partition(".")[0] in (machine.run_id, machine.root_of):
            self.world.complain(f"{id} was swept away and belongs to a Machine that is {machine.state}")


@dataclass(frozen=True, slots=True)
class Saved:
    """Memory on the disk. `durable` when it would survive the loss of power."""

    count: int
    root: str
    dirty: int
    boot: int
    durable: bool = False
    damaged: bool = False

    @property
    def sha256(self) -> str:
        return f"{self.count}/{self.root}/{self.dirty}{'/damaged' if self.damaged else ''}"


class _Room:
    """What all rooms share: effects that take time and outlive their caller."""

    def __init__(self, world: World) -> None:
        self._world, self._rooms = world, world.rooms
        self._process = PROCESS.get()

    def _effect(
        self, what: str, id: str, apply: Callable[[], Any] | None, *, fails: bool = True
    ) -> asyncio.Future[Any]:
        """Do it after a while. `fails`: it may fail, before or after its effect."""
        world, process = self._world, self._process
        loop = world.loop
        future: asyncio.Future[Any] = loop.create_future()
        mark = id_of_effect = world.next_effect()
        delay = world.brief()
        problem: Exception | None = None
        before = True
        if world.faults and fails and world.chance.random() < world.trouble:
            problem = self._problem(what)
            before = world.chance.random() < 0.5
            if isinstance(problem, TimeoutError | Unavailable) and world.happens(0.1):
                delay = 30.0  # it hangs until it is given up
        world.note(what, id, f"{problem!r} {'before' if before else 'after'}" if problem else "")
        world.moment(what)

        def run() -> None:
            if process is not None and process.effects.pop(id_of_effect, None) is None:
                return
            value = None
            if apply is not None and not (problem is not None and before):
                value = apply()
            if not future.done():
                if problem is not None:
                    future.set_exception(problem)
                else:
                    future.set_result(value)

        if process is not None:
            process.effects[mark] = run
        loop.later(delay, run)
        return future

    def _problem(self, what: str) -> Exception:
        if what == "destroy":
            return self._world.chance.choice(
                (Unavailable("group is busy"), Unavailable("group is busy"), TimeoutError())
            )
        if what in ("start", "fetch") and self._world.happens(0.4):
            return InvalidArgument(f"{what} can never work")
        if self._world.happens(0.1):
            return OSError(5, "input/output error")
        return Unavailable(f"{what} does not work now")


class SimDriver(_Room):
    """The contract of drivers over the world's boxes."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world)
        self.name = name

    def _box(self, id: str) -> Box | None:
        """Only the driver that a sandbox was started with knows what to do with it."""
        box = self._rooms.boxes.get(id)
        if box is not None and box.driver != self.name:
            self._world.complain(f"{id} is on {box.driver}, and {self.name} was asked about it")
        return box

    async def fingerprint(self) -> Fingerprint:
        return Fingerprint(works=True)

    def expect(self) -> None:
        """Nothing to get ready."""

    async def start(self, sandbox: Sandbox) -> Running:
        id, version = sandbox.id, sandbox.env[0]
        self._rooms.intended(id, "start")
        box = self._rooms.boxes.setdefault(id, Box(id, version, driver=self.name))
        if box.running:
            return Running(1)
        try:
            await self._effect("start", id, lambda: self._rooms.begin(id, version, sandbox.root.name))
        except (Unavailable, Final):
            self._rooms.started.discard(id)
            await self.destroy(id)  # as real drivers do: what a failed start left, if it can be removed
            raise
        return Running(1)

    async def signal(self, id: str, number: int) -> None:
        box = self._box(id)
        if box is not None and not (box.stubborn and number != 9):
            await self._effect("signal", id, lambda: self._rooms.end(id, 137 if number == 9 else 0), fails=False)

    async def kill(self, id: str) -> None:
        await self._effect("kill", id, lambda: self._rooms.end(id, 137), fails=False)

    async def wait(self, id: str) -> Exit:
        box = self._box(id)
        if box is None or box.made:
            return Exit(exit_code=137, signal=9, error=f"run {id}")
        if box.exit is not None:
            return box.exit
        waiter: asyncio.Future[Exit] = self._world.loop.create_future()
        box.waiters.append(waiter)
        return await waiter

    async def execute(self, id: str, command: Command) -> CommandResult:
        box = self._box(id)
        if box is None or not box.running:
            raise FailedPrecondition("machine not running")
        await asyncio.sleep(self._world.brief())
        return CommandResult(exit_code=0, stdout=b"", stderr=b"")

    def snapshot_build(self, id: str) -> str:
        return self.name

    async def suspend(self, id: str, directory: Path) -> None:
        self._rooms.intended(id, "suspend")
        box = self._box(id)
        if box is None or not (box.running or box.away):
            raise FailedPrecondition("machine not running")
        box.needed = False
        if self._world.faults and not box.away and self._world.happens(0.1):
            if self._world.happens(0.5):
                raise NotSuspended("a connection is open")
            self._rooms.end(id, 137)
            raise Unavailable("suspend does not work now")
        await self._effect("suspend", id, lambda: self._rooms.save(id))
        if not box.away:
            raise NotSuspended("it was needed, or has ended")

    async def keep_running(self, id: str) -> bool:
        box = self._box(id)
        if box is None or box.away:
            return False
        box.needed = True
        return True

    async def resume(self, sandbox: Sandbox, directory: Path) -> Running:
        id, version = sandbox.id, sandbox.env[0]
        self._rooms.intended(id, "resume")
        box = self._box(id)
        if box is not None and not box.away:
            return Running(1)
        if self._world.faults and self._world.happens(0.05):
            raise Unusable("it cannot be read")
        await self._effect("resume", id, lambda: self._loaded(id, version, sandbox.root.name))
        return Running(1)

    def _loaded(self, id: str, version: str, root: str) -> None:
        if id not in self._rooms.boxes:
            self._rooms.load(id, version, root, self.name)

    async def stats(self, id: str) -> Stats:
        return Stats(cpu_ns=0, memory_bytes=0, pids=1, oom_kills=0)

    async def recover(self, id: str) -> Running | Ended | None:
        await asyncio.sleep(0)
        box = self._box(id)
        if box is None or box.made or box.away:
            return None
        return Ended(box.exit) if box.exit is not None else Running(1)

    async def destroy(self, id: str) -> None:
        def gone() -> None:
            self._rooms.end(id, 137)
            box = self._box(id)
            if box is not None and not box.running:
                del self._rooms.boxes[id]

        if self._world.sweeping:
            self._rooms.unowned(id)
        await self._effect("destroy", id, gone)
        box = self._box(id)
        if box is not None and box.running:
            await asyncio.sleep(self._world.settings.runtime_timeout_s)
            raise TimeoutError

    async def processes(self, id: str) -> frozenset[int]:
        return frozenset()

    async def known(self) -> frozenset[str]:
        return frozenset(id for id, box in self._rooms.boxes.items() if box.driver == self.name)


class SimRoots(_Room):
    async def mount(self, key: str, layers: tuple[Path, ...], *, size_mb: int, keep: bool = False) -> Path:
        self._rooms.intended(key, "root")
        await self._effect("mount", key, lambda: self._mounted(key, keep))
        return _ROOT / key

    def _mounted(self, key: str, keep: bool) -> None:
        if key not in self._rooms.roots and not keep and key in self._rooms.kept:
            self._rooms.thrown_away(key)
        self._rooms.roots.add(key)

    async def unmount(self, key: str, *, keep: bool = False) -> None:
        if self._world.sweeping and not keep:
            self._rooms.unowned(key)
        if key in self.known():
            await self._effect("unmount", key, lambda: self._unmounted(key, keep))

    def _unmounted(self, key: str, keep: bool) -> None:
        if any(box.root == key for box in self._rooms.running()):
            self._world.complain(f"the root {key} was taken away while it is in use")
        self._rooms.roots.discard(key)
        if not keep:
            self._rooms.dirty.pop(key, None)
        if not keep and key in self._rooms.kept:
            self._rooms.thrown_away(key)

    async def mark(self, key: str) -> str:
        if key in self._rooms.roots:
            self._world.complain(f"the root {key} was looked at while it is mounted")
        return str(self._rooms.dirty.get(key, ""))

    def known(self) -> set[str]:
        return self._rooms.roots | self._rooms.kept.keys() | self._rooms.dirty.keys()


class SimImages(_Room):
    """One image. The registry may be away, the name unknown."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.roots = SimRoots(world)
        self._image = Image(_IMAGE, ())

    async def open(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        await asyncio.sleep(0)

    async def resolve(self, reference: str, *, organization: str = "") -> ResolvedImage:
        return _IMAGE

    def referenced_by(self, in_use: Callable[[], Iterable[str]]) -> None:
        """Nothing is ever deleted."""

    async def config_of(self, image: ResolvedImage) -> bytes:
        return b"{}"

    async def fetch(self, image: ResolvedImage) -> Image:
        await self._effect("fetch", "", None)
        return self._image


class SimLinks(_Room):
    async def open(self) -> None:
        await asyncio.sleep(0)

    async def attach(self, attachment: Attachment) -> Path:
        self._rooms.intended(attachment.id, "link")
        await self._effect("attach", attachment.id, lambda: self._rooms.links.add(attachment.id))
        return _NETNS

    async def reattach(self, attachment: Attachment) -> Path:
        return await self.attach(attachment)

    async def detach(self, attachment: Attachment) -> None:
        await self.discard(attachment.id)

    async def discard(self, id: str) -> None:
        if self._world.sweeping:
            self._rooms.unowned(id)
        if id in self._rooms.links:
            await self._effect("detach", id, lambda: self._rooms.links.discard(id))

    async def readmit(self, attachment: Attachment) -> None:
        await asyncio.sleep(0)

    async def known(self) -> frozenset[str]:
        return frozenset(self._rooms.links)


class SimSnapshots(_Room):
    """What is written is on the disk at once, and survives a loss of power once it was sealed."""

    def make(self, key: str) -> Path:
        return Path("/simulated/snapshots") / key

    path = make

    async def seal(self, key: str) -> tuple[str, int]:
        self._rooms.intended(key, "snapshot")
        await self._effect("seal", key, lambda: self._sealed(key))
        return self._rooms.snapshots[key].sha256, 1

    def _sealed(self, key: str) -> None:
        saved = self._rooms.snapshots.get(key)
        if saved is not None:
            self._rooms.snapshots[key] = replace(saved, durable=True)

    async def check(self, key: str, sha256: str) -> None:
        await asyncio.sleep(self._world.brief())
        saved = self._rooms.snapshots.get(key)
        if saved is None or saved.sha256 != sha256:
            raise Unusable("its memory on disk is not what was written")

    async def remove(self, key: str) -> None:
        if self._world.sweeping:
            self._rooms.unowned(key)
        if key in self._rooms.snapshots:
            await self._effect("remove", key, lambda: self._rooms.snapshots.pop(key, None))

    def known(self) -> set[str]:
        return set(self._rooms.snapshots)


def compile_simulated(machine: Machine, surroundings: Surroundings) -> Sandbox:
    """In place of writing files: only what the simulated driver looks at. Its environment is the version."""
    return Sandbox(
        id=machine.run_id,
        root=surroundings.root,
        argv=("/bin/app",),
        env=(machine.instance_id,),
        cwd="/",
        uid=0,
        gid=0,
        gids=(),
        hostname=machine.id,
        netns=surroundings.netns,
        binds=_NO_FILES,
        limits=_LIMITS,
        log=surroundings.log,
    )
