"""Builds of this host: taken in, given their turn, watched, remembered.

A build is in the journal before it is in the queue, and its end is there before anybody is told. Its secrets are in
memory only; so after a crash of the agent no build can be gone on with, and each that had not ended is `interrupted`.
Asking again is cheap: what steps had finished before is in the cache, unless it was this very build that made them.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from caddisfly.bus import contract
from caddisfly.bus.rpc import Caller, Dispatcher
from caddisfly.host.builds import log as logs
from caddisfly.host.builds.build import Build, Step
from caddisfly.host.builds.log import BuildLog
from caddisfly.host.builds.queue import Queue
from caddisfly.host.builds.sandbox import Order, Outcome
from caddisfly.host.builds.settings import BuildSettings
from caddisfly.host.journal.journal import Journal
from caddisfly.host.network import addresses
from caddisfly.host.settings import HostSettings
from caddisfly.model.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Problem,
    Unavailable,
    Unimplemented,
)
from caddisfly.model.machine import wall_ms

log = logging.getLogger(__name__)

_ID = re.compile(r"[0-9a-f]{14}")
_SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SECRETS_MAX = 1 << 20
_PAGE_BYTES = 256 * 1024
_LONGEST_WAIT_S = 20.0
_MIB = 1 << 20

Publish = Callable[[str, bytes], Awaitable[None]]


class Carrier(Protocol):
    """Who carries builds out (`sandbox.Workshop`)."""

    async def open(self) -> None: ...

    async def carry_out(self, order: Order, log: BuildLog, on_step: Callable[[Step], Awaitable[None]]) -> Outcome:
        """Cancelling it leaves nothing behind."""
        ...

    def evict(self) -> list[str]: ...

    def forget(self, org_id: str, app_id: str) -> None: ...


@dataclass(slots=True)
class _Work:
    """What is known of a build that has not ended, beside its record."""

    secrets: Mapping[str, bytes]
    token: str
    log: BuildLog
    task: asyncio.Task[None] | None = None
    cancelled: bool = False


class Builds:
    """`carrier` None: this host does not build."""

    def __init__(
        self,
        *,
        host: HostSettings,
        settings: BuildSettings,
        journal: Journal,
        carrier: Carrier | None,
        publish: Publish,
    ) -> None:
        self._host, self._settings, self._journal = host, settings, journal
        self._carrier = carrier if settings.enabled else None
        self._publish = publish
        self._queue = Queue(concurrency=settings.concurrency, most=settings.waiting_per_organization)
        self._builds: dict[str, Build] = {}
        self._work: dict[str, _Work] = {}
        self._slots = set(range(settings.concurrency))

    async def start(self, known: tuple[Build, ...]) -> None:
        """Go on after a restart. Everything of this host's that should not run has been swept."""
        for build in known:
            if not build.ended:
                log.warning("builds.interrupted", extra={"build": build.id})
                build = build.interrupt(wall_ms())
                await self._journal.write_build(build)
            self._builds[build.id] = build
        if self._carrier is None:
            return
        try:
            await self._carrier.open()
        except (Problem, OSError) as problem:
            # Machines do not need it. Who wants to build is told.
            log.error("builds.cannot_build", extra={"reason": str(problem)})
            self._carrier = None

    async def stop(self) -> None:
        """End what runs: a sandbox without its agent would have nobody to read from it."""
        tasks = [work.task for work in self._work.values() if work.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def register(self, dispatcher: Dispatcher) -> None:
        dispatcher.handle(contract.START_BUILD, self.begin)
        dispatcher.handle(contract.SHOW_BUILD, self.show)
        dispatcher.handle(contract.LIST_BUILDS, self.list)
        dispatcher.handle(contract.CANCEL_BUILD, self.cancel)
        dispatcher.handle(contract.READ_BUILD_LOG, self.read_log)

    async def begin(self, request: contract.StartBuild) -> contract.BuildReply:
        """Take a build in. It begins at its turn."""
        if self._carrier is None:
            raise Unimplemented(
                "this host does not build",
                why="[builds] enabled is false, or the agent's log says what is missing",
                next="caddis doctor; or build elsewhere: caddis build --local-only",
            )
        if request.build_id in self._builds:
            return self._reply(self._find(contract.BuildCall(build_id=request.build_id, app_id=request.app.id)))
        _check(request)
        app = request.app
        build = Build(
            id=request.build_id,
            app_id=app.id,
            app_name=app.name,
            org_id=app.org_id,
            org_slug=app.org_slug,
            network_id=app.network_id,
            context=request.context,
            dockerfile=request.dockerfile,
            target=request.target,
            args=request.args,
            labels=request.labels,
            secret_names=tuple(request.secrets),
            no_cache=request.no_cache,
            tag=request.tag,
            created_ms=wall_ms(),
        )
        subject = contract.build_log_subject(app=app.name, build_id=build.id)
        writer = BuildLog(
            self._log_path(build),
            limit=self._settings.log_size_mb * _MIB,
            publish=lambda line: self._publish(subject, line),
        )
        self._queue.add(build)
        self._builds[build.id] = build
        secrets = {name: value.encode() for name, value in request.secrets.items()}
        self._work[build.id] = _Work(secrets, request.token, writer)
        try:
            await self._journal.write_build(build)
        except Problem:
            self._drop(build)
            del self._builds[build.id]
            raise
        self._take_turns()
        return self._reply(self._builds[build.id])

    async def show(self, request: contract.BuildCall) -> contract.BuildReply:
        return self._reply(self._find(request))

    async def list(self, request: contract.ListBuilds) -> contract.BuildList:
        found = [build for build in self._builds.values() if build.app_id == request.app_id]
        found.sort(key=lambda build: build.created_ms, reverse=True)
        return contract.BuildList(builds=tuple(build.to_wire() for build in found))

    async def cancel(self, request: contract.BuildCall) -> contract.BuildReply:
        """Answers when nothing of it runs any more. Cancelling what has ended is no error."""
        build = self._find(request)
        work = self._work.get(build.id)
        if work is not None:
            await self._cancel(build, work)
        # When many have ended since, its record may be gone with the oldest.
        return self._reply(self._builds.get(build.id) or build.cancel(wall_ms()))

    async def _cancel(self, build: Build, work: _Work) -> None:
        work.cancelled = True
        if work.task is None:
            await self._end(build.cancel(wall_ms()))
        else:
            work.task.cancel()
            await asyncio.wait((work.task,))

    async def follow_deletions(self, control: Caller) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._settings.forget_every_s)
            await self.forget_deleted(control)

    async def forget_deleted(self, control: Caller) -> None:
        """Remove what was kept for apps that are gone: their caches, logs and records.

        Control is asked, app by app: a host that was away when an app was deleted finds out all the same. As long as
        that cannot be told, everything stays.
        """
        if self._carrier is None:
            return  # the caches are out of reach, and the records say of whom they are
        apps = {(build.app_id, build.app_name, build.org_id) for build in self._builds.values()}
        for app_id, name, org_id in sorted(apps):
            ask = contract.AskNeeds(app_id=app_id, name=name, org_id=org_id)
            try:
                if (await control.call(contract.ASK_NEEDS, ask)).alive:
                    continue
                await self._forget_app(app_id, org_id, self._carrier)
            except Unavailable as problem:
                log.info("builds.deletions_unknown", extra={"reason": str(problem)})
                return
            except (Problem, OSError) as problem:
                log.warning("builds.not_forgotten", extra={"app": name, "reason": str(problem)})

    async def _forget_app(self, app_id: str, org_id: str, carrier: Carrier) -> None:
        for build in [build for build in self._builds.values() if build.app_id == app_id]:
            work = self._work.get(build.id)
            if work is not None:
                await self._cancel(build, work)
        # The records go last: while there is one, what could not be removed is tried again.
        await asyncio.to_thread(carrier.forget, org_id, app_id)
        for build in [build for build in self._builds.values() if build.app_id == app_id]:
            await self._forget(build)
        log.info("builds.app_forgotten", extra={"app_id": app_id})

    async def read_log(self, request: contract.ReadBuildLog) -> contract.BuildLogPage:
        build = self._find(request)
        path = self._log_path(build)
        offset = max(0, request.offset)
        work = self._work.get(build.id)
        news = work.log.news if work is not None else None
        page = await asyncio.to_thread(logs.read, path, offset=offset, limit=_PAGE_BYTES)
        if not page.lines and news is not None and request.wait_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(request.wait_s, _LONGEST_WAIT_S)):
                    await news.wait()
            page = await asyncio.to_thread(logs.read, path, offset=offset, limit=_PAGE_BYTES)
        now = self._builds.get(build.id, build)
        return contract.BuildLogPage(
            lines=page.lines,
            next_offset=page.next_offset,
            state=now.state,
            ended=now.ended and not page.lines and build.id not in self._work,
        )

    def _take_turns(self) -> None:
        while (build := self._queue.next()) is not None:
            slot = self._slots.pop()
            task = asyncio.create_task(self._run(self._builds[build.id], slot), name=f"build-{build.id}")
            self._work[build.id].task = task

    async def _run(self, build: Build, slot: int) -> None:
        work = self._work[build.id]
        ended = build.interrupt(wall_ms())
        try:
            build = await self._remember(build.run(wall_ms()))
            ended = await self._carry_out(build, work, slot)
        except asyncio.CancelledError:
            ended = self._builds[build.id]
            ended = ended.cancel(wall_ms()) if work.cancelled else ended.interrupt(wall_ms())
        except Problem as problem:
            ended = self._builds[build.id].fail(wall_ms(), problem)
        except Exception as error:
            log.exception("builds.bug", extra={"build": build.id})
            ended = self._builds[build.id].fail(wall_ms(), Internal("the build broke", why=repr(error)))
        finally:
            self._slots.add(slot)
            await asyncio.shield(self._end(ended))

    async def _carry_out(self, build: Build, work: _Work, slot: int) -> Build:
        assert self._carrier is not None
        number = await self._journal.next_number("run")
        order = Order(
            build=build,
            number=number,
            ipv4=addresses.of_slot(self._host.ipv4_pool, slot),
            ipv6=addresses.sixpn(
                network_id=build.network_id,
                host_id=self._host.host_id,
                machine_part=await self._journal.next_number("address6"),
            ),
            secrets=work.secrets,
            token=work.token,
        )

        async def on_step(step: Step) -> None:
            # Shown, not journaled: what counts after a crash is only that it was running.
            self._builds[build.id] = self._builds[build.id].at(step)

        try:
            async with asyncio.timeout(self._settings.timeout_s):
                outcome = await self._carrier.carry_out(order, work.log, on_step)
        except TimeoutError:
            now = self._builds[build.id]
            problem = DeadlineExceeded(
                f"the build took longer than {self._settings.timeout_s:g} s",
                why=f"step {now.step.name} was under way: {now.step.text[:200]}" if now.step else "",
                next="make it shorter, or raise [builds] timeout_s",
                status="timeout",
            )
            return now.fail(wall_ms(), problem, step=now.step)
        if outcome.problem is not None:
            return self._builds[build.id].fail(wall_ms(), outcome.problem, step=outcome.step)
        return self._builds[build.id].finish(wall_ms(), image=outcome.image, digest=outcome.digest)

    async def _end(self, build: Build) -> None:
        work = self._work.get(build.id)
        if work is not None:
            with suppress(OSError):  # a full disk must not keep a build from ending
                await work.log.note(_farewell(build))
        try:
            await self._remember(build)
        except Problem as problem:
            self._builds[build.id] = build
            log.error("builds.end_not_recorded", extra={"build": build.id, "reason": str(problem)})
        self._drop(build)
        log.info("builds.ended", extra={"build": build.id, "app": build.app_name, "state": build.state})
        self._take_turns()
        await self._forget_old(build.app_id)
        if self._carrier is not None:
            gone = await asyncio.to_thread(self._carrier.evict)
            if gone:
                log.info("builds.caches_evicted", extra={"caches": gone})

    def _drop(self, build: Build) -> None:
        self._queue.remove(build.id)
        work = self._work.pop(build.id, None)
        if work is not None:
            work.log.close()

    async def _forget_old(self, app_id: str) -> None:
        ended = [build for build in self._builds.values() if build.app_id == app_id and build.ended]
        for build in ended[: -self._settings.kept]:
            await self._forget(build)

    async def _forget(self, build: Build) -> None:
        await self._journal.forget_build(build.id)
        self._builds.pop(build.id, None)
        self._log_path(build).unlink(missing_ok=True)

    async def _remember(self, build: Build) -> Build:
        await self._journal.write_build(build)
        self._builds[build.id] = build
        return build

    def _find(self, request: contract.BuildCall) -> Build:
        build = self._builds.get(request.build_id)
        if build is None or build.app_id != request.app_id:
            raise NotFound("build not found", next="caddis builds list")
        return build

    def _reply(self, build: Build) -> contract.BuildReply:
        return contract.BuildReply(build=build.to_wire(), ahead=self._queue.place(build.id))

    def _log_path(self, build: Build) -> Path:
        return self._host.data_dir / "builds" / "logs" / f"{build.id}.log"


def _check(request: contract.StartBuild) -> None:
    """What becomes a name of a file or of a namespace here."""
    if not _ID.fullmatch(request.build_id):
        raise InvalidArgument(f"{request.build_id!r} is not the id of a build")
    for name in request.secrets:
        if not _SECRET_NAME.fullmatch(name):
            raise InvalidArgument(
                f"{name!r} cannot name a secret", why="use letters, digits, `_`, `.` and `-`", next="rename it"
            )
    if sum(len(value) for value in request.secrets.values()) > _SECRETS_MAX:
        raise FailedPrecondition("the secrets are larger than 1 MiB together", next="put files into the context")


def _farewell(build: Build) -> str:
    if build.failure:
        why = build.failure.get("why", "")
        return f"{build.state}: {build.failure['what']}" + (f": {why}" if why else "")
    return f"{build.state}: {build.image}@{build.digest}" if build.digest else build.state
