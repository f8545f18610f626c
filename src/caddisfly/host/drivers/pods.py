"""Sandboxes of several programs, on a driver that knows only single ones.

A sandbox without members goes straight to the driver. One with members becomes a `Pod`: for each program a sandbox of
its own, all of them in one control group and one network namespace. To the rest of the agent a pod is one sandbox: it
starts, it is found again, it ends with an exit, it is destroyed. What the next agent must know is in its `Notes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from caddisfly.host.drivers.driver import (
    Attach,
    Attachable,
    Command,
    CommandResult,
    Driver,
    Ended,
    Fingerprint,
    KeepsLog,
    Running,
    Sandbox,
    Session,
    Stats,
    Suspendable,
    behind,
)
from caddisfly.host.drivers.notes import Notes
from caddisfly.host.drivers.pod import Pod
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, Unimplemented
from caddisfly.model.machine import Exit


async def _nobody(id: str) -> None:
    """Nobody wants to know."""


class Pods:
    """A driver over a driver."""

    def __init__(self, driver: Driver, *, notes: Notes, tell: Callable[[str], Awaitable[None]] = _nobody) -> None:
        """`tell(id)` is awaited when a program of this sandbox has changed its state."""
        self._driver, self._notes, self._tell = driver, notes, tell
        self._pods: dict[str, Pod] = {}
        self._adopting = asyncio.Lock()
        self.name = driver.name

    def behind(self, id: str) -> Driver:
        return behind(self._driver, id)

    async def fingerprint(self) -> Fingerprint:
        return await self._driver.fingerprint()

    def expect(self) -> None:
        self._driver.expect()

    async def start(self, sandbox: Sandbox) -> Running:
        if not sandbox.members:
            return await self._driver.start(sandbox)
        pod = self._pods.get(sandbox.id)
        if pod is None:
            self._notes.begin(sandbox)
            pod = self._pods[sandbox.id] = self._pod(sandbox)
        if not pod.begun:
            await pod.begin()
        return Running(0)

    async def stop(self, id: str, number: int) -> None:
        if pod := self._pods.get(id):
            await pod.stop(number)
        else:
            await self._driver.signal(id, number)

    async def signal(self, id: str, number: int) -> None:
        if pod := self._pods.get(id):
            await pod.signal(number)
        else:
            await self._driver.signal(id, number)

    async def kill(self, id: str) -> None:
        if pod := self._pods.get(id):
            await pod.kill()
        await self._driver.kill(id)

    async def wait(self, id: str) -> Exit:
        if pod := self._pods.get(id):
            return await asyncio.shield(pod.ended)
        return await self._driver.wait(id)

    async def execute(self, id: str, command: Command) -> CommandResult:
        return await self._driver.execute(self._where(id, command.container), command)

    async def attach(self, id: str, wanted: Attach) -> Session:
        where = self._where(id, wanted.container)
        driver = self.behind(where)
        if not isinstance(driver, Attachable):
            raise Unimplemented(
                "this machine takes no interactive commands",
                why=f"the {driver.name} driver cannot keep their streams open",
                next="run one with caddis machine exec",
            )
        return await driver.attach(where, wanted)

    def _where(self, id: str, container: str) -> str:
        """The id of the sandbox in which a command runs that names this container."""
        pod = self._pods.get(id)
        if pod is None:
            if container:
                raise InvalidArgument(f"there is no container {container!r}", why="the machine has none")
            return id
        names = [name for name, _ in pod.states]
        if container and container not in names:
            raise InvalidArgument(f"there is no container {container!r}", why=f"there are {', '.join(names)}")
        current = pod.current(container)
        if current is None:
            raise FailedPrecondition("container not running", why=f"{container or 'none'} is not up")
        return current

    def snapshot_build(self, id: str) -> str:
        if self._notes.has(id):
            raise FailedPrecondition(
                "unable to suspend machine", why="it runs several programs", next="stop it instead"
            )
        return self._suspendable(id).snapshot_build(id)

    async def suspend(self, id: str, directory: Path) -> None:
        await self._suspendable(id).suspend(id, directory)

    async def keep_running(self, id: str) -> bool:
        return await self._suspendable(id).keep_running(id)

    async def resume(self, sandbox: Sandbox, directory: Path) -> Running:
        return await self._suspendable(sandbox.id).resume(sandbox, directory)

    def _suspendable(self, id: str) -> Suspendable:
        driver = behind(self._driver, id)
        if isinstance(driver, Suspendable):
            return driver
        raise FailedPrecondition(
            "unable to suspend machine: its host cannot keep memory on disk",
            why=f"the {driver.name} driver has no snapshots",
            next="stop it instead",
        )

    async def stats(self, id: str) -> Stats:
        return await self._driver.stats(id)

    async def processes(self, id: str) -> frozenset[int]:
        return await self._driver.processes(id)

    async def recover(self, id: str) -> Running | Ended | None:
        async with self._adopting:
            pod = self._pods.get(id) or await self._adopt(id)
        if pod is None:
            return await self._driver.recover(id)
        if not pod.begun:
            return None
        return Ended(pod.ended.result()) if pod.ended.done() else Running(0)

    async def _adopt(self, id: str) -> Pod | None:
        plan, state = self._notes.plan(id), self._notes.state(id)
        if plan is None or state is None:
            return None
        pod = self._pod(plan)
        await pod.adopt(state)
        if pod.begun:
            self._pods[id] = pod
        return pod

    async def destroy(self, id: str) -> None:
        pod = self._pods.get(id)
        if pod is not None:
            await pod.close()
        if pod is not None or self._notes.has(id):
            for other in await self._driver.known():
                if other.partition(".")[0] == id and other != id:
                    await self._driver.destroy(other)
        await self._driver.destroy(id)
        self._pods.pop(id, None)
        self._notes.forget(id)

    async def known(self) -> frozenset[str]:
        """Every incarnation with a trace here, whatever it is made of."""
        return self._notes.known() | {id.partition(".")[0] for id in await self._driver.known()}

    async def reopen_log(self, id: str) -> None:
        driver = self.behind(id)
        if not isinstance(driver, KeepsLog):
            return
        for other in [id] if id not in self._pods else await driver.known():
            if other.partition(".")[0] == id:
                await driver.reopen_log(other)

    def states(self, id: str) -> tuple[tuple[str, str], ...]:
        """The programs of a sandbox that is up and their states. None for one that runs a single program."""
        pod = self._pods.get(id)
        return pod.states if pod is not None else ()

    def heard(self, id: str, healthy: dict[str, bool]) -> None:
        """What checks say of its programs."""
        if pod := self._pods.get(id):
            pod.heard(healthy)

    async def end_one(self, id: str, container: str) -> None:
        """Stop one program that is not well."""
        if pod := self._pods.get(id):
            await pod.end_one(container)

    async def close(self) -> None:
        """Leave everything as it is to the next agent."""
        for pod in self._pods.values():
            await pod.leave()

    def _pod(self, plan: Sandbox) -> Pod:
        async def tell() -> None:
            await self._tell(plan.id)

        return Pod(plan, self._driver, notes=self._notes, tell=tell)
