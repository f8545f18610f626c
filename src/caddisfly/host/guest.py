"""From a Machine and its image to a sandbox: what runs, as whom, with which environment and files.

Precedence of the environment (reference machines-api, 5.1): the image's own, then `config.env`, then the app's secrets,
then what the platform says about the Machine.
"""

from __future__ import annotations

import base64
import binascii
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from caddisfly.host import inroot
from caddisfly.host.drivers.driver import Bind, Drives, Limits, Sandbox
from caddisfly.host.images.image import ImageConfig
from caddisfly.host.selfservice.door import make_directory
from caddisfly.host.selfservice.doors import directory_of
from caddisfly.host.settings import HostSettings
from caddisfly.model import program as program_module
from caddisfly.model.config import Config
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.guest import KINDS
from caddisfly.model.machine import Machine
from caddisfly.model.program import GuestFile, Program

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOG_BACKSTOP = 4
"""The agent rotates a log at its size and keeps what was before; past this many times that, nobody waits for it."""

_ID_MAX = 2**32 - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is there for a start: the outcome of the steps before it. `program` is one of several, if there are."""

    program: Program | None
    image: ImageConfig
    secrets: Mapping[str, str]
    """The app's, by name."""
    image_configs: Mapping[str, bytes]
    """By the name of the image, for files that hold one."""
    root: Path
    netns: Path
    log: Path
    settings: HostSettings
    drives: Drives | None = None
    """When the root is made of these, and `root` only shows the image."""
    fresh: bool = True
    """Whether it begins to run. What goes on where it was finds its root as it left it."""


def compile_sandbox(machine: Machine, given: Surroundings) -> Sandbox:
    """Everything a driver needs, for one of several programs when there are. Writes `files` into the root.

    Raises `InvalidArgument` naming what is wrong.
    """
    program, image, root, settings = given.program, given.image, given.root, given.settings
    argv = command_line(machine, image, program)
    name = (program.image if program is not None else "") or machine.config.image
    if not argv or not argv[0]:
        raise InvalidArgument(f"image {name} names no command", next="give one in config.init.cmd or config.init.exec")
    uid, gid, gids, home = user_in(root, (program.user if program is not None else "") or image.user)
    env = environment(machine, image, home, secrets=given.secrets, program=program)
    cwd = image.working_dir or "/"
    if not cwd.startswith("/"):
        cwd = f"/{cwd}"
    files = _files(machine.config, program, given.secrets, given.image_configs)
    if given.fresh:
        _must_exist(root, argv[0], path=env["PATH"], cwd=cwd, image=name)
    if given.fresh and given.drives is None:
        for file in files:
            inroot.write_file(root, file.guest_path, file.content, mode=file.mode)
    hostname = machine.config.hostname or machine.id
    guest = machine.config.guest
    return Sandbox(
        id=machine.run_id,
        root=root,
        argv=argv,
        env=tuple(f"{name}={value}" for name, value in env.items()),
        cwd=cwd,
        uid=uid,
        gid=gid,
        gids=gids,
        hostname=hostname,
        netns=given.netns,
        binds=(*_etc_files(machine, hostname, settings), _door(machine, settings)),
        limits=Limits(
            cores=float(guest.cpus),
            weight=max(1, round(100 * KINDS[guest.cpu_kind].cpu_quota * guest.cpus)),
            memory_mb=guest.memory_mb,
            pids=settings.pids_limit,
            swap_mb=machine.config.swap_mb,
        ),
        log=given.log,
        tty=machine.config.tty,
        log_max_bytes=LOG_BACKSTOP * settings.log_size_mb << 20,
        organization=machine.org_id,
        drives=given.drives,
        files=tuple(files) if given.drives is not None else (),
    )


def command_line(machine: Machine, image: ImageConfig, program: Program | None) -> tuple[str, ...]:
    """What is run."""
    if program is None:
        return machine.config.argv(entrypoint=image.entrypoint, cmd=image.cmd)
    return program_module.command_line(program.init, entrypoint=image.entrypoint, cmd=image.cmd)


def environment(
    machine: Machine, image: ImageConfig, home: str, *, secrets: Mapping[str, str], program: Program | None = None
) -> dict[str, str]:
    """What its main process, or one of several, finds in its environment. Raises `InvalidArgument`."""
    env = {"PATH": _PATH, "HOME": home, "TERM": "xterm"}
    # An entry without a name is legal in an image's config, and an error to some runtimes.
    env |= {name: value for name, sign, value in (entry.partition("=") for entry in image.env) if name and sign}
    env |= machine.config.env
    reference = machine.references[program.name if program is not None and program.image else ""]
    if program is not None:
        env |= program.env
        facts = {"id": machine.id, "version": machine.instance_id, "app_name": machine.app_name, "image": reference}
        facts |= {"private_ip": machine.private_ip, "region": machine.region}
        env |= {name: facts[field] for name, field in program.env_from.items()}
    env |= secrets if program is None else _secrets_of(program, secrets)
    env |= {
        "FLY_APP_NAME": machine.app_name,
        "FLY_MACHINE_ID": machine.id,
        "FLY_ALLOC_ID": machine.id,
        "FLY_REGION": machine.region,
        "FLY_PRIVATE_IP": machine.private_ip,
        "FLY_IMAGE_REF": reference,
        "FLY_MACHINE_VERSION": machine.instance_id,
        "FLY_VM_MEMORY_MB": str(machine.config.guest.memory_mb),
        "FLY_PUBLIC_IP": "",
    }
    if group := machine.config.metadata.get("fly_process_group"):
        env["FLY_PROCESS_GROUP"] = group
    return env


def _secrets_of(program: Program, secrets: Mapping[str, str]) -> dict[str, str]:
    """Those that one of several programs is given. Raises `InvalidArgument` for one that is not there."""
    if program.secrets is None:
        return dict(secrets)
    for name in program.secrets.values():
        if name not in secrets:
            raise InvalidArgument(
                f"{program.name} cannot be started",
                why=f"this version of the Machine has no secret {name}",
                next="set the secret, and update the Machine",
            )
    return {variable: secrets[name] for variable, name in program.secrets.items()}


def _files(
    config: Config, program: Program | None, secrets: Mapping[str, str], image_configs: Mapping[str, bytes]
) -> list[GuestFile]:
    """All that are to be written. Raises `InvalidArgument` for a secret that is not there, or is not base64."""
    plain = [*config.files, *(program.files if program is not None else ())]
    for file in (*config.secret_files, *(program.secret_files if program is not None else ())):
        try:
            content = base64.b64decode(secrets[file.secret_name], validate=True)
        except KeyError:
            raise InvalidArgument(
                f"{file.guest_path} cannot be written",
                why=f"this version of the Machine has no secret {file.secret_name}",
                next="set the secret, and update the Machine",
            ) from None
        except binascii.Error as error:
            raise InvalidArgument(
                f"{file.guest_path} cannot be written",
                why=f"secret {file.secret_name} is not base64",
                next="set it anew: the content of a file is kept in base64",
            ) from error
        plain.append(GuestFile(file.guest_path, content, file.mode))
    for described in (*config.image_config_files, *(program.image_config_files if program is not None else ())):
        plain.append(GuestFile(described.guest_path, image_configs[described.image], described.mode))
    return plain


def _must_exist(root: Path, program: str, *, path: str, cwd: str, image: str) -> None:
    """A program that is not there is the commonest mistake of all: say so before anything is started."""
    if "/" in program:
        candidates = [program if program.startswith("/") else f"{cwd}/{program}"]
    else:
        candidates = [f"{directory}/{program}" for directory in path.split(":") if directory]
    if not any(inroot.is_executable(root, candidate) for candidate in candidates):
        where = "" if "/" in program else f" in PATH ({path})"
        raise InvalidArgument(
            f"command {program!r} does not exist in image {image}",
            why=f"no executable file{where}",
            next="check config.init, or look at the image with a command that exists, such as sh",
        )


def user_in(root: Path, user: str) -> tuple[int, int, tuple[int, ...], str]:
    """uid, gid, supplementary gids and home of the image's `USER`, looked up in the image's own files."""
    name, _, group = user.partition(":")
    accounts = [line.split(":") for line in inroot.read_text(root, "/etc/passwd").splitlines()]
    found = next((fields for fields in accounts if len(fields) >= 6 and name in (fields[0], fields[2])), None)
    if not name or (found is None and name == "root"):
        uid, gid, home, account = 0, 0, "/root", "root"
    elif found is not None:
        uid, gid, home, account = _id(found[2]), _id(found[3]), found[5] or "/", found[0]
    elif name.isdecimal():
        uid, gid, home, account = _id(name), 0, "/", ""
    else:
        raise InvalidArgument(f"user {name!r} does not exist in the image", why="it is not in /etc/passwd")
    groups = [line.split(":") for line in inroot.read_text(root, "/etc/group").splitlines()]
    if group:
        gid = _group(groups, group)
    extra = tuple(
        _id(fields[2]) for fields in groups if len(fields) >= 4 and account and account in fields[3].split(",")
    )
    return uid, gid, () if group else extra, home


def _group(groups: list[list[str]], name: str) -> int:
    found = next((fields for fields in groups if len(fields) >= 3 and name in (fields[0], fields[2])), None)
    if found is not None:
        return _id(found[2])
    if name.isdecimal():
        return _id(name)
    raise InvalidArgument(f"group {name!r} does not exist in the image", why="it is not in /etc/group")


def _id(text: str) -> int:
    """A uid or gid. The largest number means "no change" to the kernel: a program for it would run on as root."""
    if not text.isdecimal() or int(text) > _ID_MAX:
        raise InvalidArgument(
            f"{text!r} is no number of a user or group",
            why=f"they go from 0 to {_ID_MAX}",
            next="correct USER, /etc/passwd or /etc/group of the image",
        )
    return int(text)


def _etc_files(machine: Machine, hostname: str, settings: HostSettings) -> tuple[Bind, ...]:
    """/etc/hosts, /etc/hostname and /etc/resolv.conf of one incarnation, kept where a reboot empties them."""
    directory = settings.run_dir / "etc" / machine.run_id
    directory.mkdir(parents=True, exist_ok=True)
    hosts = (
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        f"{machine.private_ip}\tfly-local-6pn\n{machine.ipv4}\t{hostname}\n"
    )
    servers = settings.nameservers or host_nameservers()
    texts = {
        "hosts": hosts,
        "hostname": f"{hostname}\n",
        "resolv.conf": "".join(f"nameserver {server}\n" for server in servers),
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
    return tuple(Bind(source=directory / name, target=f"/etc/{name}") for name in texts)


def _door(machine: Machine, settings: HostSettings) -> Bind:
    """`/.fly`, where the agent's socket is or will be."""
    directory = directory_of(settings, machine.id)
    make_directory(directory)
    return Bind(source=directory, target="/.fly")


def host_nameservers() -> tuple[str, ...]:
    """The host's own name servers, without those on its loopback, which no Machine can reach."""
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except OSError:
        return ()
    servers = [fields[1] for line in lines if (fields := line.split())[:1] == ["nameserver"] and len(fields) > 1]
    return tuple(server for server in servers if not server.startswith("127.") and server != "::1")


def host_name() -> str:
    return socket.gethostname()
