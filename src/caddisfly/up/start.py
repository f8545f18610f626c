"""`caddis up`: everything that must be right before the first part starts, then the supervisor.

The order matters: one platform per computer (the lock), no leftovers of one that was killed, free ports, the first
user. Only then is anything started, so a refusal leaves the computer as it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caddisfly.model.errors import FailedPrecondition
from caddisfly.up import parts, ports, presence
from caddisfly.up.plan import PartPlan, Plan
from caddisfly.up.settings import Settings

Report = Callable[[dict[str, Any]], None]


def plan(settings: Settings, *, detached: bool) -> Plan:
    """What the supervisor will run, bus first."""
    run_dir = settings.platform.run_dir
    edge_host, edge_port = ports.split(settings.edge.http_listen[0])
    children: list[PartPlan] = []
    if settings.own_bus:
        where = f"tcp:{_reachable(settings.bus.host)}:{settings.bus.port}"
        children.append(PartPlan(name="bus", argv=parts.command("bus", settings.source), ready=where))
    where = f"tcp:{_reachable(settings.control.listen_host)}:{settings.control.listen_port}"
    children.append(PartPlan(name="control", argv=parts.command("control", settings.source), ready=where))
    children.append(
        PartPlan(
            name="agent",
            argv=parts.command("agent", settings.source),
            ready=f"unix:{settings.host.socket}",
            stop_timeout_s=30,
        )
    )
    if settings.own_registry:
        where = f"tcp:{settings.registry.address}"
        children.append(PartPlan(name="registry", argv=parts.command("registry", settings.source), ready=where))
    children += [
        PartPlan(
            name=f"edge@{number}",
            argv=parts.command(f"edge@{number}", settings.source),
            ready=f"tcp:{_reachable(edge_host)}:{edge_port}",
        )
        for number in range(settings.workers)
    ]
    return Plan(
        run_dir=run_dir,
        parts=tuple(children),
        log_dir=settings.platform.data_dir / "logs" if detached else None,
        log_size_bytes=settings.platform.log_size_mb * 1024 * 1024,
    )


def needs(settings: Settings) -> list[ports.Need]:
    """Every address that will be listened on."""
    found = []
    if settings.own_bus:
        found.append(ports.Need(host=settings.bus.host, port=settings.bus.port, part="the bus", setting="[bus] port"))
    control = settings.control
    found.append(
        ports.Need(host=control.listen_host, port=control.listen_port, part="the API", setting="[control] listen_port")
    )
    if settings.own_registry:
        registry = settings.registry
        found.append(ports.Need(host=registry.host, port=registry.port, part="the registry", setting="[registry] port"))
    for address in settings.edge.http_listen:
        host, port = ports.split(address)
        if port:
            found.append(ports.Need(host=host, port=port, part="the edge", setting="[edge] http_listen"))
    return found


def prepare(settings: Settings) -> int:
    """Take the lock, clear leftovers, check ports. Returns the descriptor of the lock.

    Raises `FailedPrecondition` when this computer cannot take the platform now.
    """
    if os.geteuid() != 0:
        raise FailedPrecondition(
            "caddis up needs root", why="Machines need namespaces, mounts and control groups", next="sudo caddis up"
        )
    lock = presence.lock(settings.platform.run_dir)
    if lock is None:
        pid = presence.read(settings.platform.run_dir).get("supervisor", {}).get("pid", "unknown")
        raise FailedPrecondition(
            "the platform is running already",
            why=f"its supervisor has pid {pid}",
            next="`caddis status` shows it, `caddis down` stops it",
        )
    presence.end_leftovers(settings.platform.run_dir)
    ports.check(needs(settings))
    return lock


def foreground(plan: Plan, lock: int) -> None:
    """Become the supervisor."""
    os.set_inheritable(lock, True)
    argv = _supervisor(plan, lock)
    os.execv(argv[0], argv)


def detached(plan: Plan, lock: int, report: Report) -> None:
    """Start the supervisor in the background and return when everything answers.

    `report` gets one message per part that is ready. Raises `FailedPrecondition` with the part's last lines otherwise.
    """
    assert plan.log_dir is not None
    plan.log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    reader, writer = os.pipe()
    os.set_inheritable(lock, True)
    os.set_inheritable(writer, True)
    with (plan.log_dir / "up.log").open("ab") as log:
        process = subprocess.Popen(
            _supervisor(plan, lock, writer),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock, writer),
            cwd="/",
        )
    os.close(writer)
    os.close(lock)
    with open(reader) as messages:
        for line in messages:
            message = json.loads(line)
            if message.get("ready"):
                process.returncode = 0  # it stays; nobody waits for it here
                return
            if "failed" in message:
                process.wait()
                raise _failure(message, plan.log_dir)
            report(message)
    process.wait()
    raise FailedPrecondition("the supervisor died while starting", next=f"read {plan.log_dir / 'up.log'}")


def _failure(message: dict[str, Any], log_dir: Path) -> FailedPrecondition:
    name = message["failed"]
    last = "\n".join([f"{name} {message['why']}; its last lines:", *message["lines"]])
    return FailedPrecondition(
        f"{name} did not come up", why=last, next=f"read {log_dir / f'{name}.log'}; caddis doctor"
    )


def _supervisor(plan: Plan, *descriptors: int) -> list[str]:
    file = plan.run_dir / "plan.json"
    plan.save(file)
    return [sys.executable, "-m", "caddisfly.up.supervisor", str(file), *map(str, descriptors)]


def _reachable(host: str) -> str:
    """Where to knock for a listener on this address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
