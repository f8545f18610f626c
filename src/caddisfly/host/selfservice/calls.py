"""What a Machine may ask of itself: to be shown, its metadata, to be stopped or suspended. Everything else is refused.

The calls end in the handlers that serve the bus, so that leases, states and texts are those of the API.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from caddisfly.bus import contract
from caddisfly.host.machines import Machines
from caddisfly.host.records import Records
from caddisfly.host.selfservice.exchange import Answer, Request
from caddisfly.model.errors import Internal, InvalidArgument, PermissionDenied, Problem
from caddisfly.model.machine import Machine
from caddisfly.model.metadata import check_changes, value_of
from caddisfly.model.program import stop_signal, stop_timeout

log = logging.getLogger(__name__)

_OK = Answer(200, {"ok": True})
_DONE = Answer(204)


class Calls:
    """The answers."""

    def __init__(self, machines: Machines, records: Records, *, show: Callable[[str], Machine]) -> None:
        """`show(machine_id)` gives a Machine as everyone sees it. Raises `NotFound`."""
        self._machines, self._records, self._show = machines, records, show

    async def answer(self, machine_id: str, request: Request) -> Answer:
        """Answer the Machine of this id. Never raises."""
        try:
            return await self._answer(self._show(machine_id), request)
        except Problem as problem:
            return Answer.of(problem)
        except Exception:
            log.exception("selfservice.bug", extra={"machine": machine_id, "path": "/".join(request.path)[:200]})
            return Answer.of(Internal("internal error"))

    async def _answer(self, machine: Machine, request: Request) -> Answer:
        own = ("v1", "apps", machine.app_name, "machines", machine.id)
        rest = request.path[len(own) :]
        if request.path[: len(own)] == own:
            match request.method, *rest:
                case ["GET"]:
                    return Answer(200, machine.to_wire())
                case ["POST", "stop"]:
                    return await self._stop(machine, request)
                case ["POST", "suspend"]:
                    await self._machines.suspend(contract.MachineCall(machine_id=machine.id, nonce=request.nonce))
                    return _OK
                case ["GET", "metadata"]:
                    return Answer(200, dict(machine.config.metadata))
                case ["PUT" | "PATCH", "metadata"]:
                    body = request.json()
                    version = _text(body.get("machine_version") or "", "machine_version")
                    return await self._set(machine, body.get("metadata") or {}, version)
                case ["GET", "metadata", key]:
                    return Answer(200, {"value": value_of(machine.config.metadata, key)})
                case ["POST", "metadata", key]:
                    return await self._set(machine, {key: request.json().get("value")})
                case ["DELETE", "metadata", key]:
                    return await self._set(machine, {key: None})
        raise PermissionDenied(
            "a machine may not ask for this by itself",
            why="without a token it can be shown, stopped and suspended, and its metadata read and set: by itself only",
            next="use the API with a token for anything else",
        )

    async def _stop(self, machine: Machine, request: Request) -> Answer:
        body = request.json()
        signal = stop_signal(_text(body.get("signal") or "", "signal"))
        timeout = body.get("timeout")
        call = contract.StopMachine(
            machine_id=machine.id,
            nonce=request.nonce,
            signal=signal,
            timeout_s=stop_timeout(timeout, "timeout").seconds if timeout else 0.0,
        )
        await self._machines.stop(call)
        return _OK

    async def _set(self, machine: Machine, changes: Any, version: str = "") -> Answer:
        if not isinstance(changes, dict):
            raise InvalidArgument("invalid metadata, must be an object")
        wanted = {
            _text(name, "metadata key"): None if value is None else _text(value, f"metadata.{name}")
            for name, value in changes.items()
        }
        check_changes(machine.config.metadata, wanted)
        call = contract.SetMetadata(machine_id=machine.id, metadata=wanted, machine_version=version)
        await self._records.set_metadata(call)
        return _DONE


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or "\0" in value or not _encodable(value):
        raise InvalidArgument(f"invalid {field[:60]!r}, must be a string of valid Unicode without NUL characters")
    return value


def _encodable(value: str) -> bool:
    """JSON can spell half of a character, which no answer could then be written with."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
