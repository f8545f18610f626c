"""Several drivers on one host, as one.

Which of them has a sandbox is written in its Machine's record, so nothing is kept here: an agent that comes back, be
it with other settings, sends each call to where the sandbox was started. A sandbox that is no Machine's, and so is to
be swept, is looked for in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from caddisfly.host.drivers.driver import (
    Command,
    CommandResult,
    Driver,
    Ended,
    Fingerprint,
    Running,
    Sandbox,
    Stats,
    TakesDrives,
)
from caddisfly.model.errors import FailedPrecondition
from caddisfly.model.isolation import Isolation
from caddisfly.model.machine import Exit

DriverOf = Callable[[str], str | None]
"""By the id of an incarnation, the name of its driver. None: it is no Machine's. Empty: its record is from before there
were several."""


class Several:
    """`offers` are the drivers for new incarnations, by what they isolate with, the preferred first."""

    def __init__(
        self, offers: Mapping[Isolation, Driver], *, driver_of: DriverOf, others: Iterable[Driver] = ()
    ) -> None:
        """`others` are driven on with what runs on them, and get nothing new."""
        self.offers = offers
        self.name = ", ".join(driver.name for driver in offers.values())
        self._drivers = {driver.name: driver for driver in (*offers.values(), *others)}
        self._preferred, *_ = self._drivers.values()
        containers = (driver for driver in self._drivers.values() if not isinstance(driver, TakesDrives))
        self._oldest = next(containers, self._preferred)
        """What runs Machines from before there were several, and before there were microVMs."""
        self._driver_of = driver_of

    def behind(self, id: str) -> Driver:
        """The driver of a Machine's sandbox. Raises `FailedPrecondition` when it is not on this host any more."""
        return self._named(self._driver_of(id.partition(".")[0]) or "")

    def _named(self, name: str) -> Driver:
        if not name:
            return self._oldest
        try:
            return self._drivers[name]
        except KeyError:
            raise FailedPrecondition(
                f"this host has no {name} any more",
                why="the machine was started with it",
                next=f"install it again; caddis doctor says whether {name} works",
            ) from None

    async def fingerprint(self) -> Fingerprint:
        """Of the preferred one."""
        return await self._preferred.fingerprint()

    def expect(self) -> None:
        for driver in self._drivers.values():
            driver.expect()

    async def start(self, sandbox: Sandbox) -> Running:
        return await self.behind(sandbox.id).start(sandbox)

    async def signal(self, id: str, number: int) -> None:
        await self.behind(id).signal(id, number)

    async def kill(self, id: str) -> None:
        await self.behind(id).kill(id)

    async def wait(self, id: str) -> Exit:
        return await self.behind(id).wait(id)

    async def execute(self, id: str, command: Command) -> CommandResult:
        return await self.behind(id).execute(id, command)

    async def stats(self, id: str) -> Stats:
        return await self.behind(id).stats(id)

    async def processes(self, id: str) -> frozenset[int]:
        return await self.behind(id).processes(id)

    async def recover(self, id: str) -> Running | Ended | None:
        return await self.behind(id).recover(id)

    async def destroy(self, id: str) -> None:
        if self._driver_of(id.partition(".")[0]) is not None:
            await self.behind(id).destroy(id)
            return
        for driver in self._drivers.values():
            if id in await driver.known():
                await driver.destroy(id)

    async def known(self) -> frozenset[str]:
        return frozenset[str]().union(*[await driver.known() for driver in self._drivers.values()])
