"""Sandboxes of several programs, on a driver that knows only single ones.

A sandbox without members goes straight to the driver. One with members becomes a `Pod`: for each program a sandbox of
its own, all of them in one control group and one network namespace. To the rest of the agent a pod is one sandbox: it
starts, it is found again, it ends with an exit, it is destroyed.

    <directory>/<id>/plan.json     what it is made of; written once, first
    <directory>/<id>/state.json    how far it is (pod.py)

The directory is one that a reboot empties, like the sandboxes themselves.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from caddisfly.host.drivers.driver import (
    Bind,
    Command,
    CommandResult,
    Driver,
    Ended,
    Fingerprint,
    KeepsLog,
    Limits,
    Member,
    Running,
    Sandbox,
    Stats,
)
from caddisfly.host.drivers.pod import Pod
from caddisfly.model.duration import Duration
from caddisfly.model.errors import FailedPrecondition, InvalidArgument
from caddisfly.model.machine import Exit
from caddisfly.model.program import RestartPolicy, StopConfig


async def _nobody(id: str) -> None:
    """Nobody wants to know."""


class Pods:
    """A driver over a driver."""

    def __init__(self, driver: Driver, *, directory: Path, tell: Callable[[str], Awaitable[None]] = _nobody) -> None:
        """`tell(id)` is awaited when a program of this sandbox has changed its state."""
        self._driver, self._directory, self._tell = driver, directory, tell
        self._pods: dict[str, Pod] = {}
        self._adopting = asyncio.Lock()
        self.name = driver.name

    async def fingerprint(self) -> Fingerprint:
        return await self._driver.fingerprint()

    def expect(self) -> None:
        self._driver.expect()

    async def start(self, sandbox: Sandbox) -> Running:
        if not sandbox.members:
            return await self._driver.start(sandbox)
        pod = self._pods.get(sandbox.id)
        if pod is None:
            home = self._directory / sandbox.id
            home.mkdir(parents=True, exist_ok=True)
            (home / "plan.json").write_text(json.dumps(asdict(sandbox), default=str))
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
        pod = self._pods.get(id)
        if pod is None:
            if command.container:
                raise InvalidArgument(f"there is no container {command.container!r}", why="the machine has none")
            return await self._driver.execute(id, command)
        names = [name for name, _ in pod.states]
        if command.container and command.container not in names:
            raise InvalidArgument(f"there is no container {command.container!r}", why=f"there are {', '.join(names)}")
        current = pod.current(command.container)
        if current is None:
            raise FailedPrecondition("container not running", why=f"{command.container or 'none'} is not up")
        return await self._driver.execute(current, command)

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
        plan = _read(self._directory / id / "plan.json")
        if plan is None or not (self._directory / id / "state.json").exists():
            return None
        pod = self._pod(plan)
        await pod.adopt()
        if pod.begun:
            self._pods[id] = pod
        return pod

    async def destroy(self, id: str) -> None:
        pod = self._pods.get(id)
        if pod is not None:
            await pod.close()
        if pod is not None or (self._directory / id).exists():
            for other in await self._driver.known():
                if other.partition(".")[0] == id and other != id:
                    await self._driver.destroy(other)
        await self._driver.destroy(id)
        self._pods.pop(id, None)
        shutil.rmtree(self._directory / id, ignore_errors=True)

    async def known(self) -> frozenset[str]:
        """Every incarnation with a trace here, whatever it is made of."""
        kept = {entry.name for entry in self._directory.iterdir()} if self._directory.is_dir() else set()
        return frozenset(kept | {id.partition(".")[0] for id in await self._driver.known()})

    async def reopen_log(self, id: str) -> None:
        if not isinstance(self._driver, KeepsLog):
            return
        for other in [id] if id not in self._pods else await self._driver.known():
            if other.partition(".")[0] == id:
                await self._driver.reopen_log(other)

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

        return Pod(plan, self._driver, file=self._directory / plan.id / "state.json", tell=tell)


def _read(file: Path) -> Sandbox | None:
    try:
        record = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):  # the agent died while it wrote the first file: nothing was begun
        return None
    return _sandbox(record)


def _sandbox(record: dict[str, Any]) -> Sandbox:
    return Sandbox(
        **{
            **record,
            "root": Path(record["root"]),
            "log": Path(record["log"]),
            "netns": Path(record["netns"]) if record["netns"] else None,
            "argv": tuple(record["argv"]),
            "env": tuple(record["env"]),
            "gids": tuple(record["gids"]),
            "binds": tuple(Bind(source=Path(one["source"]), target=one["target"]) for one in record["binds"]),
            "limits": Limits(**record["limits"]),
            "members": tuple(_member(one) for one in record["members"]),
        }
    )


def _member(record: dict[str, Any]) -> Member:
    stop = record["stop"]
    return Member(
        name=record["name"],
        sandbox=_sandbox(record["sandbox"]),
        restart=RestartPolicy(**record["restart"]),
        stop=StopConfig(stop["signal"], Duration(stop["timeout"])) if stop else None,
        after=tuple((name, condition) for name, condition in record["after"]),
        essential=record["essential"],
    )
