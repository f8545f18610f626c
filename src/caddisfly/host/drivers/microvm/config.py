"""The config drive: what one Machine's guest is told, as a tar archive on a disk that nobody writes to.

    settings     variables for init
    place        run with the image's root as its own: writes the files, shows what is bound, makes the directory
    enter        sourced to become the Machine's user in its surroundings and run a command, or its program
    files/N      contents
    seed         what no other guest begins with
    sshd_config, host_key, authority     who may run commands inside
    word         what the guest says at the passage to the host's sockets

Everything is quoted by `shlex`, so that no value can be more than a value.
"""

from __future__ import annotations

import io
import secrets
import shlex
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from caddisfly.host.drivers.driver import Sandbox

INSIDE = "/run/caddis"
_SECTOR, _SEED = 512, 64
_B = "/dev/caddis/busybox"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """What the guest's link has, and over whom it reaches all others."""

    ipv4: str
    ipv6: str
    gateway4: str
    gateway6: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Socket:
    """One of the host that the guest is to have at `target`: it reaches it `by` an address of its socat's."""

    target: str
    by: str
    word: bytes


def write(
    path: Path,
    sandbox: Sandbox,
    *,
    addresses: Addresses | None,
    doorway: dict[str, bytes],
    mac: str = "",
    socket: Socket | None = None,
) -> None:
    """Make the drive. `doorway` are the files by which its sshd knows whom to let in. Holds secrets: root's alone."""
    files = {
        "settings": _settings(sandbox, addresses, mac, socket),
        "seed": secrets.token_bytes(_SEED),
        "enter": _enter(sandbox),
        **doorway,
    }
    if socket is not None:
        files["word"] = socket.word
    lines = ["set -e", f"b={_B}"]
    lines += _shown(sandbox, files)
    for number, file in enumerate(sandbox.files):
        files[f"files/{number}"] = file.content
        target = shlex.quote(_absolute(file.guest_path))
        lines += [*_parents(file.guest_path), f"$b cat /dev/caddis/files/{number} > {target}"]
        lines += [f"$b chmod {file.mode & 0o7777:o} {target}"]
    lines.append(f"$b mkdir -p {shlex.quote(sandbox.cwd)}")
    files["place"] = "\n".join((*lines, "")).encode()
    path.touch(mode=0o600)
    path.write_bytes(archive(files.items()))


def archive(files: Iterable[tuple[str, bytes]]) -> bytes:
    """In whole sectors, as a disk must be."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    data = out.getvalue()
    return data + bytes(-len(data) % _SECTOR)


def _settings(sandbox: Sandbox, addresses: Addresses | None, mac: str, socket: Socket | None) -> bytes:
    kept = sandbox.drives is not None and sandbox.drives.kept
    values = {
        "HOSTNAME": sandbox.hostname,
        "PIDS": str(sandbox.limits.pids),
        "SHM": f"{sandbox.limits.memory_mb // 2}m",
        "TERMINAL": "yes" if sandbox.tty else "",
        "KEPT": "yes" if kept else "",
        "GROW": "yes" if kept else "",
        # What goes with this incarnation need not be safe from a loss of power.
        "SCRATCH": "noatime,noinit_itable" if kept else "noatime,noinit_itable,barrier=0",
        "ADDRESS4": addresses.ipv4 if addresses else "",
        "ADDRESS6": addresses.ipv6 if addresses else "",
        "GATEWAY4": addresses.gateway4 if addresses else "",
        "GATEWAY6": addresses.gateway6 if addresses else "",
        "MTU": str(addresses.mtu) if addresses else "",
        "MAC": mac,
        "SOCKET": socket.target if socket else "",
        "SOCKET_BY": socket.by if socket else "",
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()).encode()


def _enter(sandbox: Sandbox) -> bytes:
    """`unshare -R` without namespaces is a chroot that needs no shell in the image."""
    user = ["-S", str(sandbox.uid)]
    before: list[str] = []
    if sandbox.gids:
        groups = ",".join(str(gid) for gid in sandbox.gids)
        before = ["/tools/bin/setpriv", "--regid", str(sandbox.gid), "--groups", groups, "--"]
    else:
        user += ["-G", str(sandbox.gid)]  # which also drops all other groups
    inside = ["/tools/bin/unshare", "-R", "/newroot", "-w", sandbox.cwd]
    become = [*before, *inside, *user, "--"]
    # A shell lets what it starts in the background ignore Ctrl-C, and so would the program.
    environment = ["/tools/bin/env", "-i", "--default-signal", "--", *(entry for entry in sandbox.env if "=" in entry)]
    lines = (
        f"[ $# -gt 0 ] || set -- {shlex.join(sandbox.argv)}",
        # For commands: another user, as UID:GID, with a home and a terminal of their own.
        f'if [ -n "$AS_USER" ]; then set -- {shlex.join(inside)} -S "${{AS_USER%:*}}" -G "${{AS_USER#*:}}" -- "$@"',
        f'else set -- {shlex.join(become)} "$@"',
        "fi",
        f'exec {shlex.join(environment)} ${{AS_HOME:+"HOME=$AS_HOME"}} ${{AS_TERM:+"TERM=$AS_TERM"}} "$@"',
        "",
    )
    return "\n".join(lines).encode()


def _shown(sandbox: Sandbox, files: dict[str, bytes]) -> list[str]:
    """Files of the host under a name inside, which do not become part of the root. Of directories see passage.py."""
    lines = []
    for number, bind in enumerate(bind for bind in sandbox.binds if bind.source.is_file()):
        name = f"shown/{number}"
        files[name] = bind.source.read_bytes()
        lines += [
            *_parents(bind.target),
            f"target=$($b readlink -f {shlex.quote(_absolute(bind.target))})",
            '[ -e "$target" ] || : > "$target"',
            f"$b chmod 644 /dev/caddis/{name}",
            f'$b mount -o bind /dev/caddis/{name} "$target"',
            '$b mount -o remount,ro,bind "$target"',
        ]
    return lines


def _parents(path: str) -> list[str]:
    above = _absolute(path).rpartition("/")[0]
    return [f"$b mkdir -p {shlex.quote(above)}"] if above else []


def _absolute(path: str) -> str:
    return "/" + path.lstrip("/")
