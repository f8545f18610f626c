"""One build's surroundings: put up, used once, taken down whatever happened.

    network    a namespace with a link like a Machine's, and doors to chosen services (`forward.py`)
    disk       a clone of the app's cache (`disks.py`), with the context laid out on it
    memory     a tmpfs with secrets, token and what buildah reports
    processes  buildah under runc, in a control group and a user namespace (`bundle.py`)

Everything has the incarnation's name, `<build id>-<number>`. What a killed agent leaves is found by it at its next
start: the network by the sweep that Machines' are found by, processes, mounts and files here.

Control groups of builds have a parent of their own at the top, not that of Machines: the scheduler weighs siblings, and
so a build stands back behind everything on the host, the edge above all, and not only behind Machines.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from caddisfly.host.builds import buildah, bundle
from caddisfly.host.builds.build import Build, Step
from caddisfly.host.builds.buildah import Destination
from caddisfly.host.builds.bundle import FIRST_ID, Place
from caddisfly.host.builds.contexts import Contexts
from caddisfly.host.builds.disks import Disks
from caddisfly.host.builds.forward import Forwards
from caddisfly.host.builds.log import BuildLog
from caddisfly.host.builds.output import Output
from caddisfly.host.builds.settings import BuildSettings
from caddisfly.host.drivers.driver import Limits
from caddisfly.host.drivers.oci.cgroups import ControlGroups
from caddisfly.host.drivers.oci.runtime import environment
from caddisfly.host.images import kernel
from caddisfly.host.images.reference import is_digest
from caddisfly.host.images.settings import ImageSettings
from caddisfly.host.inroot import read_text
from caddisfly.host.network.network import Attachment, Network
from caddisfly.model.errors import Internal, Problem, Unavailable, Unprocessable

log = logging.getLogger(__name__)

GROUPS = "caddisfly-builds"
"""The parent of builds' control groups."""
_PRIVATE_MB = 16
_LINE_MAX = 64 * 1024
_LOOK_S = 0.5
_END_TRIES, _END_WAIT_S = 500, 0.02
_CALL_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A build with what is not in its record. `number` is unique among all incarnations of this host, ever."""

    build: Build
    number: int
    ipv4: str
    ipv6: str
    secrets: Mapping[str, bytes]
    token: str

    @property
    def id(self) -> str:
        return f"{self.build.id}-{self.number:08x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`problem` is None when the image was pushed; else `step` is where it went wrong, if it was in one."""

    image: str = ""
    digest: str = ""
    problem: Problem | None = None
    step: Step | None = None


class Workshop:
    """Carries builds out on this computer."""

    def __init__(
        self,
        *,
        run_dir: Path,
        data_dir: Path,
        settings: BuildSettings,
        images: ImageSettings,
        network: Network,
        contexts: Contexts,
        destination: Destination,
        nameservers: tuple[str, ...],
        groups: ControlGroups,
    ) -> None:
        self._home, self._settings, self._images, self._network = run_dir / "builds", settings, images, network
        self._contexts, self._destination, self._groups = contexts, destination, groups
        self._nameservers = settings.dns or nameservers
        self._disks = Disks(data_dir / "builds", settings)

    async def open(self) -> None:
        """Take down what a former agent left."""
        for id in self._groups.known():
            log.warning("builds.swept", extra={"sandbox": id})
            await self._end_processes(id)
            await self._forget_group(id)
        self._groups.weigh(self._settings.cpu_share)
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        for point, _ in reversed(kernel.mounts_below(self._home)):
            kernel.unmount(point)
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir(parents=True)
        self._home.chmod(0o711)
        self._disks.open()

    async def carry_out(self, order: Order, log_: BuildLog, on_step: Callable[[Step], Awaitable[None]]) -> Outcome:
        """Build and push. Cancelling it takes everything down, and the app's cache stays as it was before."""
        place = Place(home=self._home / order.id, netns=Path("/run/netns") / order.id)
        attachment = Attachment(
            id=order.id,
            number=order.number,
            ipv4=order.ipv4,
            ipv6=order.ipv6,
            network_id=order.build.network_id,
        )
        forwards, keep = Forwards(), False
        try:
            self._check_disk()
            await asyncio.gather(self._connect(attachment, forwards), self._furnish(place, order))
            outcome, keep = await self._run(place, order, log_, on_step)
            return outcome
        except Problem as problem:
            return Outcome(problem=problem)
        except OSError as error:
            log.warning("builds.broken", extra={"build": order.build.id, "reason": str(error)})
            return Outcome(problem=Internal("the build's surroundings broke", why=str(error), next="caddis doctor"))
        finally:
            await asyncio.shield(self._take_down(place, order, attachment, forwards, keep=keep))

    def evict(self) -> list[str]:
        """Make room among the caches. Blocks."""
        return self._disks.evict()

    def forget(self, org_id: str, app_id: str) -> None:
        """Remove an app's cache. Nothing of the app is built any more. Blocks."""
        self._disks.forget(org_id, app_id)

    def _check_disk(self) -> None:
        free = self._disks.free_mb()
        if free < self._settings.min_free_mb:
            raise Unprocessable(
                "the host's disk is nearly full",
                why=f"{free} MiB are free, and builds leave {self._settings.min_free_mb} to the Machines",
                next="free disk space on the host, or lower [builds] min_free_mb",
                status="disk_full",
            )

    async def _connect(self, attachment: Attachment, forwards: Forwards) -> None:
        netns = await self._network.attach(attachment)
        ports = {port: port for port in buildah.loopback_ports(self._images, self._destination)}
        await forwards.listen(netns, ports | self._settings.forwarded)

    async def _furnish(self, place: Place, order: Order) -> None:
        await asyncio.to_thread(self._lay, place, order)
        target = place.disk / buildah.CONTEXT.removeprefix(f"{buildah.DISK}/")
        dockerfile = await self._contexts.lay_out(order.build, target)
        _write(place.private / "Dockerfile", dockerfile)

    def _lay(self, place: Place, order: Order) -> None:
        build, settings = order.build, self._settings
        place.home.mkdir(mode=0o711)
        place.home.chmod(0o711)
        for directory in (place.private, place.etc, place.root):
            directory.mkdir()
        options = f"mode=700,uid={FIRST_ID},gid={FIRST_ID},size={_PRIVATE_MB}m"
        # No nosuid and the like, for the reason that the disk has none; it is root's of the sandbox alone.
        kernel.mount("tmpfs", place.private, kind="tmpfs", options=options)
        secrets = place.private / "secrets"
        secrets.mkdir(mode=0o700)
        os.chown(secrets, FIRST_ID, FIRST_ID)
        for name, value in order.secrets.items():
            _write(secrets / name, value)
        shown = self._images.credentials if settings.use_credentials else {}
        credentials = buildah.credentials(shown, self._destination, order.token)
        _write(place.private / "auth.json", credentials.encode())
        files = buildah.files(
            settings=settings, images=self._images, destination=self._destination, nameservers=self._nameservers
        )
        bundle.make_root(place, files, settings.mounted)
        arguments = buildah.arguments(
            build, image=self._destination.pushed(build.app_name, build.tag), settings=settings
        )
        specification = bundle.specification(
            place,
            group=self._groups.path(order.id),
            arguments=arguments,
            env=buildah.environment(settings),
            limits=self._limits,
            mounts=settings.mounted,
        )
        config = place.home / "config.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps(specification))
        self._disks.mount(build, place.disk)

    @property
    def _limits(self) -> Limits:
        settings = self._settings
        return Limits(
            cores=settings.cpus or os.cpu_count() or 1,
            weight=100,  # among builds; what they weigh together against all else is their parent's matter
            memory_mb=settings.memory_mb,
            pids=settings.pids,
        )

    async def _run(
        self, place: Place, order: Order, log_: BuildLog, on_step: Callable[[Step], Awaitable[None]]
    ) -> tuple[Outcome, bool]:
        """The outcome, and whether what is on the disk may become the cache."""
        process = await asyncio.create_subprocess_exec(
            *("runc", f"--root={self._home / 'runc'}", "run", "--bundle", str(place.home), order.id),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment(),
            limit=_LINE_MAX,
        )
        output = Output()
        reading = asyncio.create_task(_follow(process, output, log_, on_step), name=f"build-{order.build.id}")
        watching = asyncio.create_task(self._watch_disk(), name="build-disk")
        try:
            await asyncio.wait((reading, watching), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching  # raises
            await reading
            code = await process.wait()
        finally:
            for task in (reading, watching):
                task.cancel()
            await asyncio.gather(reading, watching, return_exceptions=True)
            if process.returncode is None:
                await self._end_processes(order.id)
                await process.wait()
        for event in output.finish(code):
            await log_.step(event)
        if code == 0:
            digest = _said(place, buildah.DIGEST)
            if not is_digest(digest):
                raise Internal("buildah does not say what it pushed", why=f"{digest[:100]!r} is no digest")
            reference = self._destination.reference(order.build.app_name, order.build.tag)
            return Outcome(image=reference, digest=digest), True
        phase = _said(place, buildah.PHASE)
        problem = output.problem(code, phase=phase)
        if not phase:
            problem = Internal("the build's sandbox could not be started", why=problem.why, next="caddis doctor")
        return Outcome(problem=problem, step=output.step), bool(phase) and not output.full

    async def _watch_disk(self) -> None:
        while True:
            self._check_disk()
            await asyncio.sleep(_LOOK_S)

    async def _end_processes(self, id: str) -> None:
        """Kill everything in the control group, until there is nothing. Process 1 takes its namespace along."""
        for _ in range(_END_TRIES):
            processes = self._groups.processes(id)
            if not processes:
                return
            for pid in processes:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            await asyncio.sleep(_END_WAIT_S)
        raise Unavailable("a build's processes do not end", why=f"control group {id}", next="look at the kernel's log")

    async def _take_down(
        self, place: Place, order: Order, attachment: Attachment, forwards: Forwards, *, keep: bool
    ) -> None:
        await forwards.close()
        await self._end_processes(order.id)
        await self._forget_container(order.id)
        await self._network.detach(attachment)
        await asyncio.to_thread(self._clear, place, order.build, keep)

    async def _forget_container(self, id: str) -> None:
        """What `runc run` does itself unless it was killed."""
        if (self._home / "runc" / id).exists():
            process = await asyncio.create_subprocess_exec(
                *("runc", f"--root={self._home / 'runc'}", "delete", "--force", id),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment(),
            )
            async with asyncio.timeout(_CALL_S):
                await process.wait()
        await self._forget_group(id)

    async def _forget_group(self, id: str) -> None:
        for _ in range(_END_TRIES):
            try:
                return self._groups.remove(id)
            except Unavailable:  # the last ones are on their way out
                await asyncio.sleep(_END_WAIT_S)
        self._groups.remove(id)

    def _clear(self, place: Place, build: Build, keep: bool) -> None:
        self._disks.unmount(build, place.disk, keep=keep)
        if kernel.is_mount_point(place.private):
            kernel.unmount(place.private)
        shutil.rmtree(place.home, ignore_errors=True)


async def _follow(
    process: asyncio.subprocess.Process,
    output: Output,
    log_: BuildLog,
    on_step: Callable[[Step], Awaitable[None]],
) -> None:
    assert process.stdout is not None
    async for line in _lines(process.stdout):
        events = output.read(line)
        for event in events:
            await log_.step(event)
        if events and output.step is not None:
            await on_step(output.step)
        if not events:
            await log_.output(line)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines as text; one that is too long is cut into pieces."""
    rest = b""
    while data := await stream.read(_LINE_MAX):
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode(errors="replace")
        while len(rest) > _LINE_MAX:
            yield rest[:_LINE_MAX].decode(errors="replace")
            rest = rest[_LINE_MAX:]
    if rest:
        yield rest.decode(errors="replace")


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchown(descriptor, FIRST_ID, FIRST_ID)


def _said(place: Place, name: str) -> str:
    """What was written there inside. It may as well be a link to somewhere by now: it is followed no further."""
    return read_text(place.private, name.removeprefix(buildah.PRIVATE), limit=1024).strip()
