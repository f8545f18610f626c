"""`caddis ssh sftp …`: files into a Machine and out of it. A `get` needs `cat` in the image, a `put` a shell as well.

A file is never seen half: it gets its name when all of it is there, which a `put` is told by a command that ended well.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import machine_choice, show, target, terminal
from caddisfly.cli.group import group as group_of
from caddisfly.cli.machine_choice import Container, Group, Machine, Region, Select, User
from caddisfly.cli.target import App
from caddisfly.model.errors import Aborted, AlreadyExists, InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from caddisfly.client.attach import Attachment

    Run = Callable[..., Attachment]

_CHUNK = 256 * 1024
_SAID_MAX = 2000
_STDOUT = 1
_THERE = 17
"""With which a script ends that would overwrite."""
_TARGET = 't="$1"; if [ -d "$t" ]; then t="${t%/}/$2"; fi; '
_TAKE = _TARGET + f'if [ -e "$t" ] && [ -z "$4" ]; then exit {_THERE}; fi; umask 077; cat > "$t.$3"'
_PLACE = _TARGET + 'chmod -- "$4" "$t.$3" && mv -f -- "$t.$3" "$t"'


def build() -> typer.Typer:
    sftp = group_of("Files into a Machine and out of it, one at a time.")
    sftp.command()(get)
    sftp.command()(put)
    return sftp


def get(
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="Path in the Machine.")],
    local: Annotated[str, typer.Argument(metavar="[LOCAL]", help="Path here; - is standard output.")] = "",
    app: App = "",
    machine: Machine = "",
    select: Select = False,
    region: Region = "",
    group: Group = "",
    user: User = "root",
    container: Container = "",
) -> None:
    """Copy a file out of a Machine. One that is here already is not overwritten."""
    path = Path(local or PurePosixPath(remote).name)
    path = path / PurePosixPath(remote).name if path.is_dir() else path
    if local != "-" and path.exists():
        raise AlreadyExists(f"{path} is already there", next="name another path")
    with _machine(app, machine, select, region, group, user, container) as run, run(["cat", "--", remote]) as session:
        session.end_input()
        if local == "-":
            _fetch(session, 1, remote)
            return
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with part.open("xb") as file:
                _fetch(session, file.fileno(), remote)
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
    show.line(f"{path} has {path.stat().st_size} bytes")


def put(
    local: Annotated[Path, typer.Argument(metavar="LOCAL", help="File here.")],
    remote: Annotated[str, typer.Argument(metavar="[REMOTE]", help="Path or directory. Default: the same name.")] = "",
    app: App = "",
    machine: Machine = "",
    select: Select = False,
    region: Region = "",
    group: Group = "",
    user: User = "root",
    container: Container = "",
    mode: Annotated[str, typer.Option("--mode", "-m", help="Rights of the file, in octal.")] = "0644",
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite a file that is there.")] = False,
) -> None:
    """Copy a file into a Machine. One that is there already is not overwritten, unless --force says so."""
    if not re.fullmatch("[0-7]{3,4}", mode):
        raise InvalidArgument(f"--mode {mode!r} is not octal", next="such as 0644")
    if local.is_dir():
        raise InvalidArgument(
            f"{local} is a directory", next=f"tar -c {local} | caddis ssh console -C 'tar -x -C {remote or '/'}'"
        )
    try:
        file = local.open("rb")
    except OSError as error:
        raise NotFound(f"{local} cannot be read", why=error.strerror or str(error)) from error
    wanted, name, part = remote or local.name, local.name, f"caddis-{secrets.token_hex(4)}"
    sent = 0
    with file, _machine(app, machine, select, region, group, user, container) as run:
        with run(["sh", "-c", _TAKE, "sh", wanted, name, part, "yes" if force else ""]) as session:
            while data := file.read(_CHUNK):
                session.write(data)
                sent += len(data)
            session.end_input()
            _ended(session, _said(session), f"{wanted} cannot be written")
        with run(["sh", "-c", _PLACE, "sh", wanted, name, part, mode]) as session:
            _ended(session, _said(session), f"{wanted} cannot be written")
    show.line(f"{sent} bytes written to {wanted}")


@contextmanager
def _machine(app: str, machine: str, select: bool, region: str, group: str, user: str, container: str) -> Iterator[Run]:
    """What runs commands in the Machine that is meant."""
    with target.client() as client, terminal.leaving_in_order():
        name, chosen = machine_choice.meant(client, app, machine=machine, select=select, region=region, group=group)
        yield lambda words: client.machines.attach(name, chosen["id"], words, user=user, container=container)


def _fetch(session: Attachment, descriptor: int, remote: str) -> None:
    said = b""
    for number, data in session:
        if number == _STDOUT:
            rest = data
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        else:
            said += data[: _SAID_MAX - len(said)]
    _ended(session, said, f"{remote} cannot be read")


def _said(session: Attachment) -> bytes:
    said = b""
    for _, data in session:
        said += data[: _SAID_MAX - len(said)]
    return said


def _ended(session: Attachment, said: bytes, what: str) -> None:
    """Raises what it means that it did not end well."""
    if session.exit_code == _THERE:
        raise AlreadyExists("there is such a file in the Machine", next="--force overwrites it")
    if session.exit_code != 0:
        raise Aborted(what, why=said.decode(errors="replace").strip() or f"exit code {session.exit_code}")
