"""`caddis machine run`: make a Machine, wait until it runs, and say why when it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import logs, show, target
from caddisfly.cli.machine_config import Wish
from caddisfly.cli.target import App, AsJson
from caddisfly.model.errors import Aborted, Problem

if TYPE_CHECKING:
    from caddisfly.client import Client
    from caddisfly.client.calls import Json

_LINES = 15


def run(
    image: Annotated[str, typer.Argument(help="Image to run, such as nginx.")],
    command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND...]", help="Arguments for it.")] = None,
    app: App = "",
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the Machine. Default: a generated one.")] = "",
    region: Annotated[str, typer.Option("--region", "-r", help="Region. Default: the platform's own.")] = "",
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="Environment.")] = None,
    port: Annotated[
        list[str] | None,
        typer.Option(
            "--port", "-p", metavar="PORT[:MACHINE_PORT][/PROTOCOL[:HANDLER...]]", help="As 80:8080/tcp:http."
        ),
    ] = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", "-m", metavar="NAME=VALUE")] = None,
    vm_size: Annotated[str, typer.Option("--vm-size", help="Preset, such as shared-cpu-2x.")] = "",
    vm_memory: Annotated[str, typer.Option("--vm-memory", help="Memory in MiB, or such as 1gb.")] = "",
    vm_cpus: Annotated[int, typer.Option("--vm-cpus", min=0, help="Number of CPUs.", show_default=False)] = 0,
    vm_cpu_kind: Annotated[str, typer.Option("--vm-cpu-kind", help="shared or performance.")] = "",
    restart: Annotated[str, typer.Option("--restart", help="no, on-failure or always.")] = "",
    autostop: Annotated[str, typer.Option("--autostop", help="When idle: off, stop or suspend.")] = "",
    autostart: Annotated[
        bool | None, typer.Option("--autostart/--no-autostart", help="Whether a request wakes it.", show_default=False)
    ] = None,
    entrypoint: Annotated[str, typer.Option("--entrypoint", help="Instead of the image's.")] = "",
    auto_destroy: Annotated[bool, typer.Option("--rm", "--auto-destroy", help="Destroy it when it exits.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait until it runs.")] = False,
    skip_launch: Annotated[bool, typer.Option("--skip-launch", help="Make it, do not start it.")] = False,
    org: Annotated[str, typer.Option("--org", "-o", help="Organization of a new app.")] = "personal",
    json: AsJson = False,
) -> None:
    """Make a Machine and wait until it runs. Without an app, makes one with a generated name."""
    config = Wish(
        image=image,
        command=command or (),
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
    ).config()
    with target.client() as client:
        app_name = app or target.app_of_directory() or _new_app(client, org)
        with show.waiting(f"Making a Machine of {image} in {app_name}"):
            machine = client.machines.create(app_name, config, name=name, region=region, skip_launch=skip_launch)
        if not detach and not skip_launch:
            with show.waiting(f"Waiting for {machine['id']} to start"):
                machine = _settled(client, app_name, machine)
    if json:
        show.result(machine)
        return
    show.pairs({"app": app_name, "id": machine["id"], "name": machine["name"], "state": machine["state"]})


def _new_app(client: Client, org: str) -> str:
    from caddisfly.model import ids

    made = str(client.apps.create(ids.generated_name(), org_slug=org)["name"])
    show.note(f"New app: {made}")
    return made


def _settled(client: Client, app: str, machine: Json) -> Json:
    """The Machine once it has started, or has done its work. Raises `Aborted` with the reason and its last words."""
    from caddisfly.client import TimedOut

    id = machine["id"]
    try:
        client.machines.wait(app, id, "started", "stopped", "failed", "destroyed", timeout_s=300)
    except TimedOut as late:
        state = client.machines.get(app, id)["state"]
        raise Aborted(
            f"{id} is still {state} after 300 s", why=late.text, next=f"caddis machine status {id} -a {app}"
        ) from late
    machine = client.machines.get(app, id)
    problem = failure(machine)
    if problem is None:
        return machine
    what, why = problem
    spoken = [logs.line(entry) for entry in client.logs.page(app, machine=id).entries[-_LINES:]]
    raise _Failed(
        what, why="\n".join([why, *spoken]), next=f"caddis logs -a {app} -i {id}; caddis machine status {id} -a {app}"
    )


class _Failed(Problem):
    code = "failed"


def failure(machine: Json) -> tuple[str, str] | None:
    """What went wrong and why, from its newest exit; None when it runs, or has ended well."""
    state = machine["state"]
    if state not in ("stopped", "failed", "destroyed"):
        return None
    exits = (event for event in machine.get("events") or () if event["type"] == "exit")
    left = ((next(exits, None) or {}).get("request") or {}).get("exit_event") or {}
    code = left.get("exit_code", 0)
    if state != "failed" and not code and not left.get("error"):
        return None
    if left.get("oom_killed"):
        reason = "it ran out of memory"
    else:
        reason = left.get("error") or f"its main process ended with exit code {code}"
    return f"{machine['id']} did not stay up, it is {state}", reason
