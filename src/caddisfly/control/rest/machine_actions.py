"""What one does with a machine: start, stop, restart, signal, wait, exec (reference machines-api, M6 to M12)."""

from __future__ import annotations

import shlex
import signal as posix
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from caddisfly.bus import contract
from caddisfly.control import waiting
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import AnyMachine, LeaseNonce, Parts, ThisMachine
from caddisfly.control.waiting import Wait
from caddisfly.model import states
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.program import stop_signal, stop_timeout

router = APIRouter(prefix="/v1/apps/{app}/machines/{machine}", tags=["machines"], responses=shapes.ERRORS)

SIGNALS = (
    "SIGABRT SIGALRM SIGFPE SIGHUP SIGILL SIGINT SIGKILL SIGPIPE SIGQUIT SIGSEGV SIGTERM SIGTRAP SIGUSR1 SIGUSR2"
).split()
_WAIT_MAX_S = 60
_EXEC_DEFAULT_S, _EXEC_MAX_S = 30, 60


@router.post("/start", name="Machines_start", responses=shapes.gives(shapes.StartedReply), response_model=None)
async def start_machine(machine: ThisMachine, control: Parts, nonce: LeaseNonce = "") -> Response:
    call = contract.MachineCall(machine_id=machine.id, nonce=nonce)
    answer = await control.machines.change(machine, contract.START_MACHINE, call)
    return wire.reply({"previous_state": answer.previous_state, "migrated": False, "new_host": ""})


@router.post(
    "/stop",
    name="Machines_stop",
    responses=shapes.gives(shapes.OkReply),
    response_model=None,
    openapi_extra=shapes.takes(shapes.StopBody),
)
async def stop_machine(request: Request, machine: ThisMachine, control: Parts, nonce: LeaseNonce = "") -> Response:
    body = await wire.read(request, shapes.StopBody)
    timeout_s = stop_timeout(body.timeout, "timeout").seconds if body.timeout else 0.0
    call = contract.StopMachine(
        machine_id=machine.id, nonce=nonce, signal=stop_signal(body.signal), timeout_s=timeout_s
    )
    await control.machines.change(machine, contract.STOP_MACHINE, call)
    return wire.reply({"ok": True})


@router.post("/restart", name="Machines_restart", responses=shapes.gives(shapes.OkReply), response_model=None)
async def restart_machine(
    machine: ThisMachine,
    control: Parts,
    force_stop: Annotated[str, Query(description="true kills instead of asking.")] = "",
    timeout: Annotated[str, Query(description='As in "30s"; a bare number is seconds.')] = "",
    signal: str = "",
    nonce: LeaseNonce = "",
) -> Response:
    text = f"{timeout}s" if timeout.isascii() and timeout.isdecimal() else timeout
    call = contract.StopMachine(
        machine_id=machine.id,
        nonce=nonce,
        signal=stop_signal(signal),
        timeout_s=stop_timeout(text, "timeout").seconds if text else 0.0,
        force=wire.flag(force_stop, "force_stop"),
    )
    await control.machines.change(machine, contract.RESTART_MACHINE, call)
    return wire.reply({"ok": True})


@router.post("/suspend", name="Machines_suspend", responses=shapes.gives(shapes.OkReply), response_model=None)
async def suspend_machine(machine: ThisMachine, control: Parts, nonce: LeaseNonce = "") -> Response:
    call = contract.MachineCall(machine_id=machine.id, nonce=nonce)
    await control.machines.change(machine, contract.SUSPEND_MACHINE, call)
    return wire.reply({"ok": True})


@router.post(
    "/signal",
    name="Machines_signal",
    responses=shapes.gives(shapes.OkReply),
    response_model=None,
    openapi_extra=shapes.takes(shapes.SignalBody),
)
async def signal_machine(request: Request, machine: ThisMachine, control: Parts) -> Response:
    body = await wire.read(request, shapes.SignalBody)
    call = contract.SignalMachine(machine_id=machine.id, signal=_signal(body.signal))
    await control.machines.change(machine, contract.SIGNAL_MACHINE, call)
    return wire.reply({"ok": True})


@router.get("/wait", name="Machines_wait", responses=shapes.gives(shapes.WaitedReply), response_model=None)
async def wait_for_machine(
    machine: AnyMachine,
    control: Parts,
    state: Annotated[list[str] | None, Query(description="Repeatable, or separated by commas.")] = None,
    timeout: Annotated[str, Query(description="Whole seconds, 1 to 60.")] = "",
    version: str = "",
    instance_id: Annotated[str, Query(deprecated=True)] = "",
    from_event_id: str = "",
) -> Response:
    timeout_s = wire.whole(timeout, "timeout", default=_WAIT_MAX_S)
    if not 1 <= timeout_s <= _WAIT_MAX_S:
        raise InvalidArgument("invalid WaitMachineRequest.Timeout: value must be inside range [1s, 1m0s]")
    words = [word.strip() for text in state or () for word in text.split(",") if word.strip()]
    for word in words:
        if word not in states.WAITABLE:
            raise InvalidArgument(f"invalid state {word!r}", next=f"wait for {', '.join(states.WAITABLE)}")
    what = Wait(
        states=tuple(words) or (states.STARTED,),
        timeout_s=timeout_s,
        version=version or instance_id,
        from_event_id=from_event_id,
    )
    return wire.reply(await waiting.wait(control.projection, machine, what))


@router.post(
    "/exec",
    name="Machines_exec",
    responses=shapes.gives(shapes.ExecReply),
    response_model=None,
    openapi_extra=shapes.takes(shapes.ExecBody),
)
async def exec_in_machine(request: Request, machine: ThisMachine, control: Parts) -> Response:
    """A command that fails is no failed call: its exit code is in the reply."""
    body = await wire.read(request, shapes.ExecBody)
    try:
        command = tuple(body.command) or tuple(shlex.split(body.cmd))
    except ValueError as error:
        raise InvalidArgument("invalid cmd", why=str(error)) from error
    if not command or "\x00" in "".join(command):
        raise InvalidArgument("missing command", next='send {"command": ["ls", "-l"]} or {"cmd": "ls -l"}')
    timeout_s = body.timeout or _EXEC_DEFAULT_S
    if timeout_s > _EXEC_MAX_S:
        raise InvalidArgument(f"invalid timeout, must be at most {_EXEC_MAX_S} seconds, got {timeout_s}")
    call = contract.ExecMachine(
        machine_id=machine.id, command=command, stdin=body.stdin, timeout_s=timeout_s, container=body.container
    )
    answer = await control.machines.ask(machine.host_id, contract.EXEC_MACHINE, call, timeout_s=timeout_s + 10)
    return wire.reply(answer.model_dump())


def _signal(value: str | int) -> str:
    """fly-go sends the number, everybody else the name."""
    name = str(value)
    if isinstance(value, int) or (name.isascii() and name.isdecimal()):
        try:
            name = posix.Signals(int(value)).name
        except ValueError:
            name = str(value)
    if name not in SIGNALS:
        raise InvalidArgument(f"invalid signal, {value!r} is not one of {', '.join(SIGNALS)}")
    return name
