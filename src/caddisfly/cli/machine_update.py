"""`caddis machine update` and `clone`: from the config of a Machine to another one.

An update replaces the whole config, so what is sent must be made of what is there at that moment. It is read, shown and
asked about without a Lease, because a person may think for long; then read again, compared and written under one. What
somebody else changed in between is never undone unseen.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caddisfly.cli import show, target
from caddisfly.cli.machine_config import Wish
from caddisfly.cli.machine_flags import (
    Autostart,
    Autostop,
    Detach,
    Env,
    Metadata,
    Name,
    Ports,
    Restart,
    VmCpuKind,
    VmCpus,
    VmMemory,
    VmSize,
)
from caddisfly.cli.machine_run import settled, show_made
from caddisfly.cli.target import App, AsJson, MachineId
from caddisfly.launch.events import undone
from caddisfly.launch.fleet.outcome import Failed
from caddisfly.model import differences
from caddisfly.model.errors import Aborted, FailedPrecondition, InvalidArgument, Unimplemented

if TYPE_CHECKING:
    from caddisfly.client import Client
    from caddisfly.client.calls import Json

_LEASE_S = 120
_SETTLE_S = 300
_UP = ("started", "starting", "restarting")

CommandLine = Annotated[
    str | None, typer.Option("--command", "-C", metavar="WORDS", help="Arguments for the image, '' for its own.")
]


def update(
    id: MachineId,
    app: App = "",
    image: Annotated[str, typer.Option("--image", "-i", help="Another image.")] = "",
    command: CommandLine = None,
    entrypoint: Annotated[str | None, typer.Option(help="Instead of the image's, '' for its own.")] = None,
    env: Env = None,
    port: Ports = None,
    metadata: Metadata = None,
    vm_size: VmSize = "",
    vm_memory: VmMemory = "",
    vm_cpus: VmCpus = 0,
    vm_cpu_kind: VmCpuKind = "",
    restart: Restart = "",
    autostop: Autostop = "",
    autostart: Autostart = None,
    auto_destroy: Annotated[
        bool | None,
        typer.Option("--auto-destroy/--no-auto-destroy", help="Destroy it when it exits.", show_default=False),
    ] = None,
    skip_start: Annotated[bool, typer.Option("--skip-start", help="Leave it stopped.")] = False,
    detach: Detach = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: AsJson = False,
) -> None:
    """Change a Machine. What no flag names stays; one that runs is restarted."""
    wish = Wish(
        image=image,
        command=None if command is None else _words(command, "--command"),
        env=env or (),
        ports=port or (),
        metadata=metadata or (),
        vm_size=vm_size,
        vm_memory=vm_memory,
        vm_cpus=vm_cpus,
        vm_cpu_kind=vm_cpu_kind,
        restart=restart,
        autostop=autostop,
        autostart=autostart,
        entrypoint=entrypoint,
        auto_destroy=auto_destroy,
    )
    if wish.empty:
        raise InvalidArgument("nothing to change", why="no flag says what", next="caddis machine update --help")
    with target.client() as client:
        name, machine = target.machine(client, app, id)
        wanted = differences.between(_config(machine), wish.onto(_config(machine)))
        if not wanted:
            show.note(f"Nothing to change: {id} is so already.")
        else:
            _say(wanted)
            if not yes:
                typer.confirm(f"Update {id}?", abort=True, err=True)
            before, machine = _write(client, name, id, wish, wanted, asked=not yes, skip_start=skip_start)
            if not detach:
                machine = followed(client, name, before, machine, skip_start=skip_start)
    if json:
        show.result(machine)
    else:
        show_made(name, machine)


def _write(
    client: Client, app: str, id: str, wish: Wish, shown: list[str], *, asked: bool, skip_start: bool
) -> tuple[Json, Json]:
    """The Machine as it was, and as the API says that it will be."""
    with client.machines.lease(app, id, ttl_s=_LEASE_S, description="caddis machine update") as nonce:
        before = client.machines.get(app, id)
        config = wish.onto(_config(before))
        wanted = differences.between(_config(before), config)
        if wanted != shown and asked:
            raise Aborted(
                f"{id} is not what you were shown any more",
                why="somebody changed it while you were asked",
                next="run the same again to see what it would change now",
            )
        if wanted != shown:
            _say(wanted)
        after = client.machines.update(
            app,
            id,
            config,
            current_version=str(before.get("instance_id", "")),
            skip_launch=skip_start,
            skip_service_registration=bool(before.get("cordoned")),
            nonce=nonce,
        )
        return before, after


def followed(client: Client, app: str, before: Json, after: Json, *, skip_start: bool) -> Json:
    """The Machine once the update is done. Raises `Failed` when it was undone, or does not stay up."""
    id = after["id"]
    runs = before["state"] in _UP and not skip_start
    with show.waiting(f"Waiting for {id} to {'start' if runs else 'be updated'}"):
        if runs:
            machine = settled(client, app, after)
        else:
            client.machines.wait(app, id, "settled", timeout_s=_SETTLE_S)
            machine = client.machines.get(app, id)
    if (why := undone(machine)) is not None:
        raise Failed(
            f"the update of {id} failed, it is as it was before", why=why, next=f"caddis machine why {id} -a {app}"
        )
    if machine["state"] in ("stopped", "suspended"):
        show.note(f"{id} is {machine['state']}; caddis machine start {id} -a {app}")
    return machine


def clone(
    id: MachineId,
    app: App = "",
    to_app: Annotated[str, typer.Option("--to-app", help="App of the new one. Default: the same.")] = "",
    name: Name = "",
    region: Annotated[str, typer.Option("--region", "-r", help="Default: the same.")] = "",
    override_cmd: Annotated[str, typer.Option("--override-cmd", metavar="WORDS", help="Other arguments.")] = "",
    clear_cmd: Annotated[bool, typer.Option("--clear-cmd", help="The image's own arguments.")] = False,
    clear_auto_destroy: Annotated[bool, typer.Option("--clear-auto-destroy", help="Keep it when it exits.")] = False,
    env: Env = None,
    metadata: Metadata = None,
    vm_size: VmSize = "",
    vm_memory: VmMemory = "",
    vm_cpus: VmCpus = 0,
    vm_cpu_kind: VmCpuKind = "",
    standby_for: Annotated[
        str, typer.Option("--standby-for", help="Machines whose host it waits to be lost, as ID,ID; source: this one.")
    ] = "",
    from_snapshot: Annotated[str, typer.Option("--from-snapshot", hidden=True)] = "",
    attach_volume: Annotated[str, typer.Option("--attach-volume", hidden=True)] = "",
    unique_zone: Annotated[bool | None, typer.Option("--volume-requires-unique-zone", hidden=True)] = None,
    detach: Detach = False,
    json: AsJson = False,
) -> None:
    """Make another Machine like this one, of the same image, and wait until it runs and its checks pass."""
    if from_snapshot or attach_volume or unique_zone is not None:
        raise Unimplemented("there are no volumes yet", next="leave out what is about volumes and snapshots")
    from caddisfly.launch.fleet import likeness, waiting

    if override_cmd and clear_cmd:
        raise InvalidArgument("--override-cmd and --clear-cmd exclude each other")
    words = _words(override_cmd, "--override-cmd")
    wish = Wish(
        command=words if words or clear_cmd else None,
        env=env or (),
        metadata=metadata or (),
        vm_size=vm_size,
        vm_memory=vm_memory,
        vm_cpus=vm_cpus,
        vm_cpu_kind=vm_cpu_kind,
        auto_destroy=False if clear_auto_destroy else None,
    )
    with target.client() as client:
        source_app, source = target.machine(client, app, id)
        _config(source)
        watched = [id if word == "source" else word for word in standby_for.split(",") if word]
        config = wish.onto(likeness.of(source, standby_for=watched))
        if config.get("mounts"):
            raise FailedPrecondition(
                f"{id} has a volume", why="a volume belongs to one Machine", next="caddis machine run makes one without"
            )
        where = to_app or source_app
        with show.waiting(f"Cloning {id} into {where}"):
            machine = client.machines.create(
                where, config, name=name, region=region or source.get("region", ""), skip_launch=bool(watched)
            )
    if not detach and not watched:
        with show.waiting(f"Waiting for {machine['id']} to start"):
            machine = target.at_once(lambda many: waiting.up(many, where, machine))
    if json:
        show.result(machine)
    else:
        show_made(where, machine)


def _config(machine: Json) -> Mapping[str, Any]:
    """Raises `FailedPrecondition` when it is not known for sure, because it would be lost by writing."""
    if machine.get("host_status") in ("unknown", "unreachable") or not machine.get("config"):
        raise FailedPrecondition(
            f"what {machine['id']} is now is not known",
            why=f"its host is {machine.get('host_status') or 'not reachable'}",
            next="try again when the host is back",
        )
    config: Mapping[str, Any] = machine["config"]
    return config


def _words(text: str, flag: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f"{flag} {text!r} is not a list of words", why=str(error)) from error


def _say(lines: list[str]) -> None:
    for line in lines:
        show.note(f"  {line}")
