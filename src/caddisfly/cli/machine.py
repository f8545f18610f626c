"""`caddis machine …`: Machines one by one."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import machine_leases, machine_metadata, show, target, terminal
from caddisfly.cli.group import group
from caddisfly.cli.machine_records import events, isolation_of, ps, show_events, versions
from caddisfly.cli.machine_run import create, run
from caddisfly.cli.machine_update import clone, update
from caddisfly.cli.machine_why import why
from caddisfly.cli.target import App, AsJson, MachineId, MachineIds
from caddisfly.launch.fleet.outcome import plain
from caddisfly.model import states
from caddisfly.model.errors import Aborted, InvalidArgument

if TYPE_CHECKING:
    from caddisfly.client import Client

Signal = Annotated[str, typer.Option("--signal", "-s", help="Signal to send, such as SIGTERM.")]


def build() -> typer.Typer:
    machine = group("Machines: run, look at, change, stop, destroy.")
    for interspersed in (run, create):
        machine.command(context_settings={"allow_interspersed_args": True})(interspersed)
    machine.command("list")(list_)
    looks: tuple[Callable[..., None], ...] = (status, why, events, versions, ps, wait)
    acts: tuple[Callable[..., None], ...] = (start, stop, suspend, restart, kill)
    for command in (*looks, *acts):
        machine.command()(command)
    machine.command("exec")(exec_)
    changes: tuple[Callable[..., None], ...] = (update, clone, cordon, uncordon, destroy)
    for command in changes:
        machine.command()(command)
    machine.add_typer(machine_leases.build(), name="leases")
    machine.add_typer(machine_metadata.build(), name="metadata")
    return machine


def list_(
    app: App = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Ids only.")] = False,
    json: AsJson = False,
) -> None:
    """List the Machines of an app."""
    from caddisfly.cli import apps

    name = target.app_name(app)
    with target.client() as client:
        machines = client.machines.list(name)
    if json:
        show.result(machines)
    elif quiet:
        for machine in machines:
            show.line(machine["id"])
    else:
        apps.show_machines(machines)


def status(id: MachineId, app: App = "", json: AsJson = False) -> None:
    """Show one Machine and what happened to it."""
    from caddisfly.cli import apps

    with target.client() as client:
        name, machine = target.machine(client, app, id)
    if json:
        show.result(machine)
        return
    config = machine.get("config") or {}
    guest = config.get("guest") or {}
    show.pairs(
        {
            "id": machine["id"],
            "name": machine.get("name", ""),
            "app": name,
            "state": machine["state"],
            "region": machine.get("region", ""),
            "image": apps.image_of(machine),
            "IP address": machine.get("private_ip", ""),
            "size": f"{guest.get('cpus', '?')} {guest.get('cpu_kind', '')} CPU, {guest.get('memory_mb', '?')} MiB",
            **isolation_of(machine),
            "version": machine.get("instance_id", ""),
            "created": machine.get("created_at", ""),
            "updated": machine.get("updated_at", ""),
        }
    )
    show.line()
    show_events(machine.get("events") or [])
    if checks := machine.get("checks"):
        show.line()
        show.table(
            ("CHECK", "STATUS", "OUTPUT"), [(one["name"], one["status"], plain(one["output"])) for one in checks]
        )


def start(ids: MachineIds, app: App = "", json: AsJson = False) -> None:
    """Start Machines and wait until they run."""

    def act(client: Client, name: str, id: str) -> None:
        client.machines.start(name, id)
        client.machines.wait(name, id, "started", timeout_s=60)

    _each(ids, app, act, "started", json=json)


def stop(
    ids: MachineIds,
    app: App = "",
    signal: Signal = "",
    timeout: Annotated[str, typer.Option(help="Time between the signal and the kill, such as 30s or 30.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return once they have stopped.")] = True,
    json: AsJson = False,
) -> None:
    """Stop Machines."""
    grace = f"{timeout}s" if timeout.isdecimal() else timeout

    def act(client: Client, name: str, id: str) -> None:
        client.machines.stop(name, id, signal=signal, timeout=grace)
        if wait:
            client.machines.wait(name, id, "stopped", timeout_s=330)

    _each(ids, app, act, "stopped", json=json)


def suspend(
    ids: MachineIds,
    app: App = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return once they are suspended.")] = True,
    json: AsJson = False,
) -> None:
    """Suspend Machines: their memory is kept, and a start goes on where they were."""

    def act(client: Client, name: str, id: str) -> None:
        client.machines.suspend(name, id)
        if wait:
            client.machines.wait(name, id, "settled", timeout_s=330)
            now = client.machines.get(name, id)
            if now["state"] != "suspended":
                raise Aborted(
                    f"{id} was not suspended: it is {now['state']}", next=f"caddis machine why {id} -a {name}"
                )

    _each(ids, app, act, "suspended", json=json)


def restart(
    ids: MachineIds,
    app: App = "",
    signal: Signal = "",
    timeout: Annotated[str, typer.Option("--time", help="Time between the signal and the kill, such as 30s.")] = "",
    force: Annotated[bool, typer.Option("--force", "--force-stop", help="Kill instead of asking.")] = False,
    json: AsJson = False,
) -> None:
    """Restart Machines and wait until they run again."""

    def act(client: Client, name: str, id: str) -> None:
        client.machines.restart(name, id, force_stop=force, timeout=timeout, signal=signal)
        client.machines.wait(name, id, "started", timeout_s=330)

    _each(ids, app, act, "restarted", json=json)


def kill(ids: MachineIds, app: App = "", signal: Signal = "SIGKILL", json: AsJson = False) -> None:
    """Send Machines a signal, SIGKILL unless another is named."""
    _each(ids, app, lambda client, name, id: client.machines.signal(name, id, signal), f"sent {signal}", json=json)


def cordon(ids: MachineIds, app: App = "", json: AsJson = False) -> None:
    """Keep requests away from Machines. They run on."""
    _each(ids, app, lambda client, name, id: client.machines.cordon(name, id), "cordoned", json=json)


def uncordon(ids: MachineIds, app: App = "", json: AsJson = False) -> None:
    """Let requests come to Machines again."""
    _each(ids, app, lambda client, name, id: client.machines.uncordon(name, id), "uncordoned", json=json)


def wait(
    id: MachineId,
    app: App = "",
    state: Annotated[
        list[str] | None, typer.Option("--state", help=f"{', '.join(states.WAITABLE)}; any of several.")
    ] = None,
    timeout: Annotated[str, typer.Option("--wait-timeout", "-w", help="At most so long, such as 90s or 5m.")] = "5m",
    json: AsJson = False,
) -> None:
    """Wait until a Machine is in a state; settled, unless another is named."""
    from caddisfly.client import NotFoundError, TimedOut
    from caddisfly.model.duration import Duration

    wanted = [word.strip() for text in state or ["settled"] for word in text.split(",")]
    for word in wanted:
        if word not in states.WAITABLE:
            raise InvalidArgument(f"--state {word!r} is not one of {', '.join(states.WAITABLE)}")
    within_s = Duration.parse(f"{timeout}s" if timeout.isdecimal() else timeout, field="--wait-timeout").seconds
    with target.client() as client:
        name, _ = target.machine(client, app, id)
        try:
            with show.waiting(f"Waiting for {id} to be {' or '.join(wanted)}"):
                reply = client.machines.wait(name, id, *wanted, timeout_s=within_s)
        except NotFoundError:
            if "destroyed" not in wanted:
                raise
            reply = {"ok": True, "state": "destroyed"}
        except TimedOut as late:
            raise Aborted(
                f"{id} did not get there in {timeout}", why=late.text, next=f"caddis machine why {id} -a {name}"
            ) from late
        # Fly's own answer need not say which of the states it is.
        reached = str(reply.get("state") or client.machines.get(name, id)["state"])
    if json:
        show.result({**reply, "id": id, "app": name, "state": reached})
    else:
        show.line(f"{id} {reached}")


def exec_(
    id: MachineId,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="One quoted string, or words after --.")],
    app: App = "",
    timeout: Annotated[int, typer.Option(help="Seconds until the command is killed. Not with -i or -t.")] = 30,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Pass standard input on, as it comes.")
    ] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give the command a terminal.")] = False,
    container: Annotated[str, typer.Option(help="In this one of several containers; the first by default.")] = "",
    json: AsJson = False,
) -> None:
    """Run a command in a Machine; ends with that command's exit code."""
    words = shlex.split(command[0]) if len(command) == 1 else command
    if interactive or tty:
        with target.client() as client, terminal.leaving_in_order():
            name, _ = target.machine(client, app, id)
            code = terminal.run(
                lambda window: client.machines.attach(
                    name, id, words, window=window, term=terminal.kind(), container=container
                ),
                terminal=tty,
            )
        raise typer.Exit(code)
    with target.client() as client:
        name, _ = target.machine(client, app, id)
        reply = client.machines.exec(name, id, words, timeout_s=timeout, container=container)
    if json:
        show.result(reply)
    else:
        sys.stdout.write(reply.get("stdout") or "")
        sys.stderr.write(reply.get("stderr") or "")
    raise typer.Exit(int(reply.get("exit_code") or 0))


def destroy(
    ids: MachineIds,
    app: App = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="Also when it runs.")] = False,
    json: AsJson = False,
) -> None:
    """Destroy Machines. This cannot be undone."""

    def act(client: Client, name: str, id: str) -> None:
        client.machines.delete(name, id, force=force)
        client.machines.wait(name, id, "destroyed", timeout_s=60)

    _each(ids, app, act, "destroyed", json=json)


def _each(ids: list[str], app: str, act: Callable[[Client, str, str], None], done: str, *, json: bool) -> None:
    """Do it to each, in order; the first failure ends it."""
    results = []
    with target.client() as client:
        for id in ids:
            name, _ = target.machine(client, app, id)
            with show.waiting(f"{id}"):
                act(client, name, id)
            results.append({"id": id, "app": name, "result": done})
            if not json:
                show.line(f"{id} {done}")
    if json:
        show.result(results)
