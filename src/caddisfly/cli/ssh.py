"""`caddis ssh …`: into a Machine that runs. There is no SSH in it: commands are run as `exec` runs them."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from caddisfly.cli import machine_choice, sftp, show, target, terminal
from caddisfly.cli.group import group as group_of
from caddisfly.cli.machine_choice import Container, Group, Machine, Region, Select, User
from caddisfly.cli.target import App
from caddisfly.model.errors import InvalidArgument

Command = Annotated[str, typer.Option("--command", "-C", help="Run this instead of a shell.")]
Pty = Annotated[bool, typer.Option("--pty", help="Give the command a terminal. A shell has one if there is one here.")]


def build() -> typer.Typer:
    ssh = group_of("Into Machines: a shell, or single commands.")
    ssh.command()(console)
    ssh.add_typer(sftp.build(), name="sftp")
    return ssh


def console(
    app: App = "",
    machine: Machine = "",
    select: Select = False,
    region: Region = "",
    group: Group = "",
    command: Command = "",
    pty: Pty = False,
    user: User = "root",
    container: Container = "",
) -> None:
    """A shell in a Machine, or one command; ends with its exit code. `~.` after Enter leaves one that is stuck."""
    words = split(command)
    with target.client() as client, terminal.leaving_in_order():
        name, chosen = machine_choice.meant(client, app, machine=machine, select=select, region=region, group=group)
        if terminal.is_ours() and not words:
            show.note(f"Connecting to {chosen['id']} of {name}")
        code = terminal.run(
            lambda window: client.machines.attach(
                name, chosen["id"], words, window=window, term=terminal.kind(), user=user, container=container
            ),
            terminal=pty or (not words and terminal.is_ours()),
        )
    raise typer.Exit(code)


def split(command: str) -> list[str]:
    """A command line as words. Raises `InvalidArgument`."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InvalidArgument(f"--command {command!r} cannot be split into words", why=str(error)) from error
