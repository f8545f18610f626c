"""Commands of Machines that a client is attached to: control's end of their lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.bus.line import Line
from caddisfly.control.machines import Machines
from caddisfly.model.machine import Machine


class Sessions:
    """Callers have checked already that the Machine is within reach."""

    def __init__(self, bus: Bus, machines: Machines) -> None:
        self._bus, self._machines = bus, machines

    @asynccontextmanager
    async def open(
        self, machine: Machine, wanted: contract.AttachMachine, *, taken: Callable[[int], None]
    ) -> AsyncIterator[Line]:
        """The line to a command that runs. It is hung up with the block. Raises what the host says, or `Unavailable`.

        `taken` is called with the number of bytes of input that the command has just had.
        """
        line = Line(self._bus, name=machine.id, taken=taken)
        subject = await line.open()
        try:
            call = wanted.model_copy(update={"machine_id": machine.id, "subject": subject})
            reply = await self._machines.ask(machine.host_id, contract.ATTACH_MACHINE, call)
            line.connect(reply.subject)
            yield line
        finally:
            await line.close()
