"""What may happen to a Machine, as pure functions of its state.

    (create) ──▶ created ──launch──▶ starting ──▶ started        created ──prepare──▶ stopped
    stopped, failed ──start──▶ starting ──▶ started              starting ──✗──▶ failed
    started ──stop, park──▶ stopping ──▶ stopped
    started ──restart──▶ restarting ──▶ started                  started ──lost──▶ starting ──▶ started
    started ──exit──▶ stopping ──▶ stopped                       its policy says stay
    started ──exit──▶ restarting ──▶ started                     its policy says again
    started ──replace──▶ replacing ──▶ started                   stopped, failed ──renew──▶ updating ──▶ stopped
    any but destroyed ──destroy──▶ destroying ──▶ destroyed      also: final exit with auto_destroy
    started ──suspend──▶ suspending ──▶ suspended                suspending ──needed──▶ started
    suspended ──start──▶ starting ──▶ started                    it goes on where it was; without its memory, anew
    suspending ──✗──▶ stopping ──▶ stopped                       suspended ──stop──▶ stopping ──▶ stopped
    suspended ──renew──▶ updating ──▶ stopped                    suspended ──restart──▶ restarting ──▶ started

Each function takes a Machine and what happened and gives the next Machine with the operation that carries it out, or
raises why not, in the words that Fly's clients match (reference machines-api, 1.10 and 4.3). Nothing here knows time,
storage or processes, so every path can be tried in a unit test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from caddisfly.host.drivers.driver import Unusable
from caddisfly.host.journal.operation import Operation
from caddisfly.host.operations import plans
from caddisfly.model import ids, states
from caddisfly.model.config import Config
from caddisfly.model.errors import Aborted, FailedPrecondition, Internal, NotFound, Problem
from caddisfly.model.machine import Exit, ImageRef, Machine, rfc3339

SUSPEND_MAX_MB = 2048
"""Fly's limit: larger memories take too long to write and to read."""
GOOD_RUN_MS = 5 * 60 * 1000
"""A run of at least this long clears the restart count (reference 4.4: retries within 5 minutes)."""
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.25, 30.0


class Busy(FailedPrecondition):
    """Legal, but an operation is under way: ask again when it has ended."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The next value, and the work to do. No operation means that nothing is left to do."""

    machine: Machine
    operation: Operation | None = None


def created(machine: Machine, *, launch: bool, warnings: tuple[str, ...] = ()) -> Decision:
    """A new Machine: its record begins with its launch event. `warnings` say what it asked for in vain."""
    machine = machine.with_event("launch", "created", source="user", request=_warned(warnings))
    return _begin(machine, plans.LAUNCH if launch else plans.PREPARE)


def start(machine: Machine, *, source: str) -> Decision:
    """Start call, or a request that woke it. A Machine that is up, or on its way, is left alone."""
    must_exist(machine)
    if machine.state in (states.STARTING, states.STARTED, states.RESTARTING):
        return Decision(machine)
    if machine.state in (states.REPLACING, states.UPDATING):
        raise FailedPrecondition("machine getting replaced, refusing to start")
    if machine.state == states.SUSPENDING:
        _must_be_idle(machine)
    if machine.state not in states.STARTABLE:
        raise FailedPrecondition(
            f"unable to start machine from current state: '{machine.state}'", next="wait until it has settled"
        )
    _must_be_idle(machine)
    suspended = machine.state == states.SUSPENDED
    machine = replace(machine, state=states.STARTING, restart_count=0, parked=False)
    return _begin(machine.with_event("start", "starting", source=source), plans.RESUME if suspended else plans.START)


def suspend(machine: Machine, *, source: str, boot: str, reason: str = "") -> Decision:
    """Suspend call (reference M10). `boot` is that of its host: an interrupted suspend goes on only in the same one."""
    must_exist(machine)
    if machine.state in (states.SUSPENDED, states.SUSPENDING):
        return Decision(machine)
    if machine.state != states.STARTED:
        raise FailedPrecondition(f"unable to suspend machine from current state: '{machine.state}'")
    config = machine.config
    unfit = ""
    if config.guest.memory_mb > SUSPEND_MAX_MB:
        unfit = f"it has {config.guest.memory_mb} MiB of memory, and the most is {SUSPEND_MAX_MB}"
    elif config.swap_mb:
        unfit = "it has swap"
    elif config.schedule:
        unfit = "it has a schedule"
    elif config.guest.gpu_kind:
        unfit = "it has a GPU"
    elif config.programs:
        unfit = "it runs several programs"
    if unfit:
        raise FailedPrecondition("unable to suspend machine", why=unfit, next="stop it instead")
    _must_be_idle(machine)
    machine = replace(machine, state=states.SUSPENDING)
    machine = machine.with_event("suspend", "suspending", source=source, request=_because(reason))
    return _begin(machine, plans.SUSPEND, {"boot": boot})


def lost(machine: Machine, *, now_ms: int) -> Decision:
    """It should run and nothing of it is there: the host was rebooted. What it had on disk goes first."""
    machine = with_exit(
        machine,
        Exit(exit_code=-1, error="the host went down under it", at_ms=now_ms),
        requested=False,
        restarting=True,
        restart_count=0,
    )
    machine = replace(machine, state=states.STARTING, restart_count=0)
    return _begin(machine.with_event("start", "starting", source="flyd"), plans.REVIVE)


def stop(machine: Machine, *, source: str, signal: str = "", timeout_s: float = 0.0, reason: str = "") -> Decision:
    """Stop call. What is stopped, or stopping, stays so; what is starting is stopped once it is up."""
    must_exist(machine)
    if machine.state in (states.STOPPED, states.STOPPING, states.CREATED, states.DESTROYING):
        return Decision(replace(machine, parked=False) if machine.parked else machine)
    _must_be_idle(machine)
    if machine.state == states.SUSPENDED:
        machine = replace(machine, state=states.STOPPING, parked=False).with_event("stop", "stopping", source=source)
        return _begin(_memory_gone(machine, "it was stopped while it was suspended"), plans.DISCARD)
    if machine.state in (states.RESTARTING, states.FAILED):  # between two tries, or given up: nothing runs
        machine = replace(machine, state=states.STOPPING)
        return _begin(machine.with_event("stop", "stopping", source=source), plans.SETTLE)
    args = {"signal": signal or machine.config.stop_config.signal, "timeout_s": timeout_s or _stop_timeout(machine)}
    machine = replace(machine, state=states.STOPPING)
    return _begin(machine.with_event("stop", "stopping", source=source, request=_because(reason)), plans.STOP, args)


def park(machine: Machine) -> Decision:
    """The platform goes down: stop what runs, and remember to start it again."""
    if machine.state not in (states.STARTED, states.RESTARTING):
        return Decision(machine)
    decision = stop(machine, source="flyd")
    return replace(decision, machine=replace(decision.machine, parked=True))


def restart(
    machine: Machine, *, source: str, signal: str = "", timeout_s: float = 0.0, force: bool = False
) -> Decision:
    """Restart call. A Machine that is down is started."""
    must_exist(machine)
    if machine.state == states.DESTROYING:
        raise FailedPrecondition("machine is being destroyed, refusing to restart")
    if machine.state in states.STARTABLE and machine.state != states.SUSPENDED:
        return start(machine, source=source)
    _must_be_idle(machine)
    args = {
        "signal": "SIGKILL" if force else signal or machine.config.stop_config.signal,
        "timeout_s": timeout_s or _stop_timeout(machine),
    }
    suspended = machine.state == states.SUSPENDED
    machine = replace(machine, state=states.RESTARTING, restart_count=0)
    machine = machine.with_event("restart", "restarting", source=source)
    if suspended:
        machine = _memory_gone(machine, "it was restarted while it was suspended", restarting=True)
    return _begin(machine, plans.RESTART, args)


def update(
    machine: Machine,
    *,
    config: Config,
    image: ImageRef,
    current_version: str,
    launch: bool,
    cordoned: bool,
    secrets_version: int = 0,
    container_images: Mapping[str, str] | None = None,
    file_images: Mapping[str, str] | None = None,
    warnings: tuple[str, ...] = (),
) -> Decision:
    """Update call: a new version. A Machine that is down stays down on it (reference M4)."""
    must_exist(machine)
    if machine.state == states.DESTROYING:
        raise FailedPrecondition("machine is being destroyed, refusing to update")
    if current_version and current_version != machine.instance_id:
        raise Aborted(
            "machine update failed due to concurrent update",
            why=f"its version is {machine.instance_id}, not {current_version}",
            next="read it again and repeat",
        )
    if machine.state in (states.REPLACING, states.UPDATING):
        raise Aborted("machine update failed due to concurrent update")
    _must_be_idle(machine)
    args = {
        "signal": machine.config.stop_config.signal,
        "timeout_s": _stop_timeout(machine),
        "previous": {
            "config": dict(machine.config.wire),
            "image": machine.image.to_wire(),
            "container_images": dict(machine.container_images),
            "file_images": dict(machine.file_images),
            "instance_id": machine.instance_id,
            "secrets_version": machine.secrets_version,
            "state": machine.state,
        },
    }
    up, suspended = machine.state in (states.STARTED, states.RESTARTING), machine.state == states.SUSPENDED
    machine = replace(
        machine,
        config=config,
        image=image,
        secrets_version=secrets_version,
        container_images=container_images or {},
        file_images=file_images or {},
        instance_id=ids.ulid(),
        cordoned=cordoned,
        restart_count=0,
        state=states.REPLACING if up else states.UPDATING,
    ).with_event("update", "replacing", source="user", request=_warned(warnings))
    if up and launch:
        return _begin(machine, plans.REPLACE, args)
    if up:
        return _begin(machine, plans.STOP, {**args, "then": "renew"})
    return _begin(machine, plans.SHED if suspended else plans.RENEW, args)


def destroy(machine: Machine, *, source: str, force: bool) -> Decision:
    """Delete call. Without force only what is at rest may go."""
    must_exist(machine)
    if machine.state == states.DESTROYING:
        return Decision(machine)
    at_rest = (states.STOPPED, states.SUSPENDED, states.FAILED, states.CREATED)
    if not force and machine.state not in at_rest:
        raise FailedPrecondition(
            "unable to destroy machine, not currently stopped, suspended, failed or created",
            why=f"it is {machine.state}",
            next="stop it first, or force",
        )
    _must_be_idle(machine)
    machine = replace(machine, state=states.DESTROYING).with_event("destroy", "destroying", source=source)
    return _begin(machine, plans.DESTROY, {"signal": "SIGKILL", "timeout_s": 1.0})


def exited(machine: Machine, exit: Exit, *, operation: Operation | None) -> Decision:
    """Its main process ended. The event comes first, then what follows from it (reference 4.4)."""
    asleep = (states.SUSPENDING, states.SUSPENDED)  # put away, or about to be; if it did end, its suspend finds out
    if machine.exited_run == machine.run_id or machine.state in asleep:
        return Decision(machine)
    requested = operation is not None and operation.kind in plans.STOPS
    again = not requested and machine.state == states.STARTED and _goes_again(machine, exit)
    count = machine.restart_count + 1 if again else machine.restart_count
    recorded = with_exit(machine, exit, requested=requested, restarting=again, restart_count=count)
    if operation is not None or machine.state != states.STARTED:
        return Decision(recorded)
    if again:
        delay_s = min(BACKOFF_FIRST_S * 2 ** (count - 1), BACKOFF_MAX_S)
        restarting = replace(recorded, state=states.RESTARTING, restart_count=count)
        return _begin(restarting.with_event("restart", "restarting", source="flyd"), plans.RETRY, {"delay_s": delay_s})
    if machine.config.auto_destroy:
        return destroy(replace(recorded, state=states.STOPPED), source="flyd", force=True)
    return _begin(replace(recorded, state=states.STOPPING), plans.SETTLE)


def with_exit(machine: Machine, exit: Exit, *, requested: bool, restarting: bool, restart_count: int) -> Machine:
    """Record an exit event (reference part 3, `exit_event`)."""
    request = {
        "exit_event": {
            "exit_code": exit.exit_code,
            "guest_exit_code": exit.exit_code,
            "guest_signal": exit.signal,
            "guest_error": exit.error,
            "oom_killed": exit.oom_killed,
            "requested_stop": requested,
            "restarting": restarting,
            "signal": exit.signal,
            "error": exit.error,
            "exited_at": _milliseconds(exit.at_ms),
        },
        "restart_count": restart_count,
    }
    noted = machine.with_event("exit", "stopped", source="flyd", request=request)
    return replace(noted, exited_run=machine.run_id)


def finished(machine: Machine, operation: Operation) -> Decision:
    """All steps are done. May begin the next operation at once."""
    idle = replace(machine, operation="")
    if operation.kind == plans.SUSPEND:
        return Decision(replace(idle, state=states.SUSPENDED).with_event("suspend", "suspended", source="flyd"))
    if operation.kind == plans.RESUME:
        resumed = replace(idle, state=states.STARTED, parked=False, snapshot=None)
        return Decision(resumed.with_event("resume", "started", source="flyd"))
    if operation.kind in plans.STARTS:
        started = replace(idle, state=states.STARTED, parked=False)
        if operation.kind == plans.REPLACE:
            started = started.with_event("update", "replaced", source="flyd")
        runs_on = {"isolation": machine.isolation, "driver": machine.driver} if machine.driver else None
        return Decision(started.with_event("start", "started", source="flyd", request=runs_on))
    if operation.kind == plans.DESTROY:
        gone = _without_run(replace(idle, state=states.DESTROYED, lease=None))
        return Decision(gone.with_event("destroy", "destroyed", source="flyd"))
    if operation.kind == plans.SHED:
        shed = _memory_gone(idle, "it was updated while it was suspended")
        return Decision(
            _without_run(replace(shed, state=states.STOPPED)).with_event("update", "replaced", source="flyd")
        )
    if operation.kind == plans.RENEW:
        state = str(operation.args["previous"]["state"])
        renewed = replace(idle, state=states.STOPPED if state == states.CREATED else state)
        return Decision(renewed.with_event("update", "replaced", source="flyd"))
    if operation.args.get("then") == "renew":
        previous = {**operation.args["previous"], "state": states.STOPPED}
        return _begin(idle, plans.RENEW, {**operation.args, "previous": previous, "then": ""})
    down = _without_run(replace(idle, state=states.STOPPED))
    if operation.kind in (plans.STOP, plans.DISCARD) and machine.config.auto_destroy and not machine.parked:
        return destroy(down, source="flyd", force=True)
    return Decision(down)


def failed(machine: Machine, operation: Operation, problem: Problem, *, now_ms: int) -> Decision:
    """A step can never succeed, and what the operation had built has been taken down again."""
    idle = replace(machine, operation="")
    if operation.kind == plans.SUSPEND:
        return _not_suspended(idle, problem)
    if operation.kind == plans.RESUME:
        return _not_resumed(idle, problem)
    if operation.kind in plans.UPDATES and operation.at == 0:
        # Nothing has been touched yet: the version before it stays, running if it ran.
        before = operation.args["previous"]
        back = replace(
            idle,
            config=Config(before["config"]),
            image=ImageRef(**before["image"]),
            container_images=before.get("container_images", {}),
            file_images=before.get("file_images", {}),
            instance_id=str(before["instance_id"]),
            secrets_version=int(before.get("secrets_version", 0)),
            state=str(before["state"]),
        )
        back = back.with_event("update", "failed", source="flyd", request={"error": problem.text})
        if back.state == states.STARTED and back.exited_run == back.run_id:  # it ended while the image was fetched
            return _begin(replace(back, state=states.STOPPING), plans.SETTLE)
        return recovered(back)
    error = f"{problem.text}; {problem.next}" if problem.next else problem.text
    destroying = operation.kind == plans.DESTROY
    noted = with_exit(
        idle,
        Exit(exit_code=-1, error=error, at_ms=now_ms),
        requested=destroying,
        restarting=False,
        restart_count=machine.restart_count,
    )
    if destroying:  # nothing of it is left, which is all that was asked for
        unseen = machine.run_id and machine.exited_run != machine.run_id
        return finished(noted if unseen else idle, operation)
    return Decision(_without_run(replace(noted, state=states.FAILED)))


def gave_way(machine: Machine, operation: Operation) -> Decision:
    """The operation has ended early, for another to take over. A suspend was undone: its Machine runs on."""
    idle = replace(machine, operation="")
    if operation.kind != plans.SUSPEND:
        return Decision(idle)
    reason = {"reason": "it was needed before its memory was on disk"}
    running = replace(idle, state=states.STARTED, snapshot=None)
    return Decision(running.with_event("resume", "started", source="flyd", request=reason))


def _not_suspended(machine: Machine, problem: Problem) -> Decision:
    """What cannot be suspended is stopped instead (reference M10)."""
    noted = replace(machine, state=states.STOPPING, snapshot=None)
    noted = noted.with_event("suspend", "failed", source="flyd", request={"error": problem.text})
    noted = noted.with_event("stop", "stopping", source="flyd")
    args = {"signal": machine.config.stop_config.signal, "timeout_s": _stop_timeout(machine)}
    return _begin(noted, plans.STOP, args)


def _not_resumed(machine: Machine, problem: Problem) -> Decision:
    """A snapshot that is no good is given up, and the Machine starts anew on its root as it was (reference 4.2).

    When it is the host that cannot, now, the Machine stays suspended.
    """
    noted = machine.with_event("resume", "failed", source="flyd", request={"error": problem.text})
    if not isinstance(problem, Unusable):
        return Decision(replace(noted, state=states.SUSPENDED))
    noted = _memory_gone(noted, str(problem), requested=False, restarting=True)
    noted = replace(noted, snapshot=None, root_of=machine.root_of or machine.run_id)
    return _begin(noted.with_event("start", "starting", source="flyd"), plans.COLD)


def _memory_gone(machine: Machine, why: str, *, requested: bool = True, restarting: bool = False) -> Machine:
    """The run of a suspended Machine has ended: nothing will ever go on from its memory."""
    exit = Exit(exit_code=-1, error=f"its memory is gone: {why}", at_ms=machine.updated_ms)
    return with_exit(machine, exit, requested=requested, restarting=restarting, restart_count=machine.restart_count)


def _without_run(machine: Machine) -> Machine:
    return replace(machine, run_id="", root_of="", snapshot=None)


def recovered(machine: Machine) -> Decision:
    """A Machine found between two states with no operation to lead it out, after a crash in just that moment."""
    if machine.state == states.RESTARTING:
        return _begin(machine, plans.RETRY, {"delay_s": BACKOFF_FIRST_S})
    if machine.state == states.DESTROYING:
        return _begin(machine, plans.DESTROY, {"signal": "SIGKILL", "timeout_s": 1.0})
    if machine.state == states.SUSPENDING:
        return _not_suspended(machine, Internal("nobody knows how far its suspend came"))
    if machine.state in (states.STARTING, states.STOPPING, states.REPLACING, states.UPDATING):
        return _begin(replace(machine, state=states.STOPPING), plans.SETTLE)
    return Decision(machine)


def _begin(machine: Machine, kind: str, args: Mapping[str, Any] | None = None) -> Decision:
    operation = Operation(
        id=ids.ulid(),
        machine_id=machine.id,
        kind=kind,
        instance_id=machine.instance_id,
        steps=plans.STEPS[kind],
        args=args or {},
    )
    return Decision(replace(machine, operation=operation.id), operation)


def must_exist(machine: Machine) -> Machine:
    """Itself. Raises `NotFound` for one that is destroyed, in words that clients match."""
    if machine.state == states.DESTROYED:
        raise NotFound("machine not found")
    return machine


def _must_be_idle(machine: Machine) -> None:
    if machine.operation:
        raise Busy(f"machine is {machine.state}", why="an operation is under way", next="wait until it has settled")


def _goes_again(machine: Machine, exit: Exit) -> bool:
    policy = machine.config.restart
    if policy.policy == "always":
        return True
    if policy.policy == "no" or exit.exit_code == 0:
        return False
    return machine.restart_count < policy.max_retries


def cleared(machine: Machine, *, now_ms: int) -> Machine:
    """The restart count starts over after a good run."""
    started = next((event for event in machine.events if (event.type, event.status) == ("start", "started")), None)
    if started is None or now_ms - started.timestamp < GOOD_RUN_MS:
        return machine
    return replace(machine, restart_count=0)


def _warned(warnings: tuple[str, ...]) -> Mapping[str, Any] | None:
    return {"warnings": list(warnings)} if warnings else None


def _because(reason: str) -> Mapping[str, Any] | None:
    return {"reason": reason} if reason else None


def _stop_timeout(machine: Machine) -> float:
    return machine.config.stop_config.timeout.seconds


def _milliseconds(ms: int) -> str:
    return f"{rfc3339(ms).removesuffix('Z')}.{ms % 1000:03d}Z"
