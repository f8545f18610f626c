"""`caddis console`: a Machine of its own with the app's image, env and secrets, for as long as somebody is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import machine_choice, show, ssh, target, terminal
from caddisfly.cli.machine_choice import Container, Machine, Select, User
from caddisfly.cli.machine_config import Wish, pairs
from caddisfly.cli.machine_flags import Env, VmCpuKind, VmCpus, VmMemory, VmSize
from caddisfly.cli.ssh import Command, Pty
from caddisfly.cli.target import App
from caddisfly.model import states

if TYPE_CHECKING:
    from caddisfly.client import Client
    from caddisfly.client.calls import Json
    from caddisfly.launch.console import Console

Config = Annotated[str, typer.Option("--config", "-c", help="The file. Default: fly.toml here, else what is deployed.")]
Image = Annotated[str, typer.Option("--image", "-i", help="Instead of the image that is deployed.")]
Region = Annotated[str, typer.Option("--region", "-r", help="Where to make it. Default: the app's primary region.")]

_START_S = 300
_END_S = 30


def console(
    app: App = "",
    config: Config = "",
    command: Command = "",
    machine: Machine = "",
    select: Select = False,
    image: Image = "",
    region: Region = "",
    env: Env = None,
    vm_size: VmSize = "",
    vm_memory: VmMemory = "",
    vm_cpus: VmCpus = 0,
    vm_cpu_kind: VmCpuKind = "",
    pty: Pty = False,
    user: User = "root",
    container: Container = "",
) -> None:
    """Run the app's console_command, or a shell, in a Machine made for it, which is destroyed afterwards.

    With --machine or --select in one that is there, which stays.
    """
    from caddisfly.launch import console as launch

    guest = Wish(vm_size=vm_size, vm_memory=vm_memory, vm_cpus=vm_cpus, vm_cpu_kind=vm_cpu_kind).config().get("guest")
    with target.client() as client, terminal.leaving_in_order():
        kept = bool(machine or select)
        planned = launch.plan(
            client,
            app or target.app_of_directory(),
            file=config,
            image=image,
            env=pairs(env or (), "--env"),
            guest=guest or {},
            needs_image=not kept,
        )
        words = ssh.split(command) or list(planned.command)
        name = planned.app
        with _chosen(client, name, machine, select) if kept else _made(client, planned, region) as id:
            code = terminal.run(
                lambda window: client.machines.attach(
                    name,
                    id,
                    words,
                    window=window,
                    term=terminal.kind(),
                    user=user,
                    container=container,
                    stop_after=not kept,
                ),
                terminal=pty or (not command and terminal.is_ours()),
            )
    raise typer.Exit(code)


@contextmanager
def _chosen(client: Client, app: str, machine: str, select: bool) -> Iterator[str]:
    yield str(machine_choice.running(client, app, machine=machine, select=select)["id"])


@contextmanager
def _made(client: Client, planned: Console, region: str) -> Iterator[str]:
    """A Machine for this block."""
    made: Json = client.machines.create(planned.app, planned.config, region=region or planned.region)
    id = str(made["id"])
    try:
        with show.waiting(f"Starting console Machine {id} with {planned.config['image']} and {planned.source}"):
            client.machines.wait(planned.app, id, states.STARTED, timeout_s=_START_S)
        yield id
    finally:
        _destroy(client, planned.app, id)


def _destroy(client: Client, app: str, id: str) -> None:
    from caddisfly.client import ApiError, NotFoundError

    try:
        client.machines.delete(app, id, force=True)
        client.machines.wait(app, id, states.DESTROYED, timeout_s=_END_S)
    except NotFoundError:
        return  # it was stopped with its session, and destroys itself then
    except ApiError as error:
        show.note(f"Machine {id} may still be there ({error.text}): caddis machine destroy -f {id} -a {app}")
