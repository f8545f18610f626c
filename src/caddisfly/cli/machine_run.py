"""`caddis machine run` and `create`: make a Machine, wait until it runs, and say why when it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import logs, show, target
from caddisfly.cli.machine_config import Wish
from caddisfly.cli.machine_flags import (
    AutoDestroy,
    Autostart,
    Autostop,
    Detach,
    Entrypoint,
    Env,
    Metadata,
    Name,
    Org,
    Ports,
    Region,
    Restart,
    VmCpuKind,
    VmCpus,
    VmMemory,
    VmSize,
)
from caddisfly.cli.target import App, AsJson
from caddisfly.launch.fleet.outcome import Failed, failure
from caddisfly.model.errors import Aborted

if TYPE_CHECKING:
    from caddisfly.client import Client
    from caddisfly.client.calls import Json

Image = Annotated[str, typer.Argument(help="Image to run, such as nginx.")]
Command = Annotated[list[str] | None, typer.Argument(metavar="[COMMAND...]", help="Arguments for it.")]

_LINES = 15


def create(
    image: Image,
    command: Command = None,
    app: App = "",
    name: Name = "",
    region: Region = "",
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
    entrypoint: Entrypoint = "",
    auto_destroy: AutoDestroy = False,
    org: Org = "personal",
    json: AsJson = False,
) -> None:
    """Make a Machine as `run` does, but do not start it."""
    run(
        image,
        command,
        app=app,
        name=name,
        region=region,
        env=env,
        port=port,
        metadata=metadata,
        vm_size=vm_size,
        vm_memory=vm_memory,
        vm_cpus=vm_cpus,
        vm_cpu_kind=vm_cpu_kind,
        restart=restart,
        autostop=autostop,
        autostart=autostart,
        entrypoint=entrypoint,
        auto_destroy=auto_destroy,
        skip_launch=True,
        org=org,
        json=json,
    )


def run(
    image: Image,
    command: Command = None,
    app: App = "",
    name: Name = "",
    region: Region = "",
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
    entrypoint: Entrypoint = "",
    auto_destroy: AutoDestroy = False,
    detach: Detach = False,
    skip_launch: Annotated[bool, typer.Option("--skip-launch", help="Make it, do not start it.")] = False,
    org: Org = "personal",
    json: AsJson = False,
) -> None:
    """Make a Machine and wait until it runs. Without an app, makes one with a generated name."""
    config = Wish(
        image=image,
        command=command or None,
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
        entrypoint=entrypoint or None,
        auto_destroy=auto_destroy,
    ).config()
    with target.client() as client:
        app_name = app or target.app_of_directory() or _new_app(client, org)
        with show.waiting(f"Making a Machine of {image} in {app_name}"):
            machine = client.machines.create(app_name, config, name=name, region=region, skip_launch=skip_launch)
        if not detach and not skip_launch:
            with show.waiting(f"Waiting for {machine['id']} to start"):
                machine = settled(client, app_name, machine)
    if json:
        show.result(machine)
        return
    show_made(app_name, machine)


def show_made(app: str, machine: Json) -> None:
    show.pairs({"app": app, "id": machine["id"], "name": machine.get("name", ""), "state": machine["state"]})


def _new_app(client: Client, org: str) -> str:
    from caddisfly.model import ids

    made = str(client.apps.create(ids.generated_name(), org_slug=org)["name"])
    show.note(f"New app: {made}")
    return made


def settled(client: Client, app: str, machine: Json) -> Json:
    """The Machine once it has started, or has done its work. Raises `Aborted` with the reason and its last words."""
    from caddisfly.client import TimedOut

    id = machine["id"]
    try:
        client.machines.wait(app, id, "started", "stopped", "failed", "destroyed", timeout_s=300)
    except TimedOut as late:
        state = client.machines.get(app, id)["state"]
        raise Aborted(
            f"{id} is still {state} after 300 s", why=late.text, next=f"caddis machine why {id} -a {app}"
        ) from late
    machine = client.machines.get(app, id)
    problem = failure(machine)
    if problem is None:
        return machine
    what, why = problem
    spoken = [logs.line(entry) for entry in client.logs.page(app, machine=id).entries[-_LINES:]]
    raise Failed(
        what, why="\n".join([why, *spoken]), next=f"caddis logs -a {app} -i {id}; caddis machine why {id} -a {app}"
    )
