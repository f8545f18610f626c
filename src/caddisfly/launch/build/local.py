"""The same build by a builder on this computer: docker, podman or buildah, whichever is there and works.

The builder gets a copy of the folder with what the rules leave of it, made of hard links where the disk allows, and is
told to ignore nothing: each builder reads ignore files in its own way, and a folder shall mean the same to all.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caddisfly.launch.build.context import Folder
from caddisfly.launch.build.display import Display
from caddisfly.model.errors import FailedPrecondition, Problem, Unavailable

_PROBE_S = 20.0
_STOP_S = 10.0
_PROBES = {
    "docker": (("docker", "version", "--format", "{{.Server.Version}}"), ("docker", "buildx", "version")),
    "podman": (("podman", "version"),),
    "buildah": (("buildah", "version"),),
}
_STEP = re.compile(r"(?:\[(\d+/\d+)\] )?STEP (\d+)(?:/(\d+))?: (.*)")
_CACHED = "--> Using cache "
_PLATFORM = "linux/amd64"


class BuildFailed(Problem):
    """The build was begun and did not come to a good end."""

    code = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOrder:
    """`image` is its full name."""

    image: str
    dockerfile: bytes
    target: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    no_cache: bool = False


def find_builder(environment: Mapping[str, str] | None = None) -> str:
    """The first that is there and answers. Raises `FailedPrecondition` with what is wrong with each."""
    environment = os.environ if environment is None else environment
    reasons = []
    for name, probes in _PROBES.items():
        if reason := next((why for probe in probes if (why := _probe(probe, environment))), ""):
            reasons.append(f"{name}: {reason}")
            continue
        return name
    raise FailedPrecondition(
        "there is no builder on this computer",
        why="\n".join(reasons),
        next="install one (apt-get install buildah), or build on the platform: leave out --local-only",
    )


def _probe(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What is wrong with it, empty when nothing is."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S, env=dict(environment))
    except FileNotFoundError:
        return "not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return (said[-1] if said else f"exit code {done.returncode}") if done.returncode else ""


def build(folder: Folder, order: LocalOrder, display: Display, *, builder: str) -> None:
    """Build it into the builder's own store. Raises `BuildFailed`; Ctrl-C ends the builder."""
    with _staged(folder, order) as place:
        command = _command(builder, order, place)
        environment = {**os.environ, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        _conduct(command, environment, display, what=f"{builder} cannot build this")


def build_with_packs(
    folder: Folder, order: LocalOrder, display: Display, *, builder: str, buildpacks: Sequence[str]
) -> None:
    """Cloud Native Buildpacks, by `pack`. Raises `FailedPrecondition` when it is not there."""
    if shutil.which("pack") is None:
        raise FailedPrecondition(
            "`pack` is not on this computer",
            why="[build] builder and buildpacks need it",
            next="https://buildpacks.io/docs/install-pack says how to get it; or write a Dockerfile",
        )
    with _staged(folder, order) as place:
        command = ["pack", "build", order.image, "--path", str(place.tree), "--trust-builder"]
        command += ["--builder", builder] if builder else []
        for one in buildpacks:
            command += ["--buildpack", one]
        if order.args:
            file = place.private / "env"
            file.write_text("".join(f"{name}={value}\n" for name, value in order.args.items()))
            command += ["--env-file", str(file)]
        if order.no_cache:
            command.append("--clear-cache")
        _conduct(command, dict(os.environ), display, what="pack cannot build this")


def push(image: str, display: Display, *, builder: str, url: str, user: str, password: str) -> None:
    """Send an image from the builder's store to the registry at `url`. The password is in a file, for as long."""
    plain_http = url.startswith("http://")
    address = url.partition("://")[2].rstrip("/")
    target = f"{address}/{image.partition('/')[2]}"
    with tempfile.TemporaryDirectory(prefix="caddis-push-") as directory:
        packed = base64.b64encode(f"{user}:{password}".encode()).decode()
        file = Path(directory) / "config.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps({"auths": {address: {"auth": packed}}}))
        if builder == "docker":
            _conduct(["docker", "tag", image, target], dict(os.environ), display, what="docker has no such image")
            command = ["docker", "--config", directory, "push", target]
        else:
            verify = ["--tls-verify=false"] if plain_http else []
            command = [builder, "push", "--authfile", str(file), *verify, image, f"docker://{target}"]
        _conduct(command, dict(os.environ), display, what=f"{builder} cannot push to {address}")


@dataclass(frozen=True, slots=True)
class _Place:
    """`private` holds what is no part of the context."""

    tree: Path
    private: Path


@contextmanager
def _staged(folder: Folder, order: LocalOrder) -> Iterator[_Place]:
    with tempfile.TemporaryDirectory(prefix="caddis-build-") as directory:
        place = _Place(Path(directory) / "context", Path(directory) / "private")
        place.tree.mkdir()
        place.private.mkdir(mode=0o700)
        for entry in folder.entries:
            target = place.tree / entry.path
            if entry.is_directory:
                target.mkdir()
            elif entry.is_link:
                target.symlink_to(entry.target)
            else:
                _link(folder.root / entry.path, target)
        for entry in reversed(folder.entries):
            if entry.is_directory:
                os.utime(place.tree / entry.path, (entry.mtime_s, entry.mtime_s))
                (place.tree / entry.path).chmod(entry.mode & 0o7777 | 0o700)
        (place.private / "Dockerfile").write_bytes(order.dockerfile)
        (place.private / "Dockerfile.dockerignore").touch()
        for name, value in order.secrets.items():
            file = place.private / f"secret-{name}"
            file.touch(mode=0o600)
            file.write_text(value)
        yield place


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target, follow_symlinks=False)


def _command(builder: str, order: LocalOrder, place: _Place) -> list[str]:
    dockerfile = place.private / "Dockerfile"
    command = [builder, "build", "--platform", _PLATFORM, "--file", str(dockerfile), "--tag", order.image]
    if builder == "docker":
        command.append("--load")
    else:
        command += ["--ignorefile", f"{dockerfile}.dockerignore", "--layers"]
    if order.target:
        command += ["--target", order.target]
    if order.no_cache:
        command.append("--no-cache")
    for name, value in order.args.items():
        command += ["--build-arg", f"{name}={value}"]
    for name, value in order.labels.items():
        command += ["--label", f"{name}={value}"]
    for name in order.secrets:
        command += ["--secret", f"id={name},src={place.private / f'secret-{name}'}"]
    return [*command, str(place.tree)]


def _conduct(command: Sequence[str], environment: Mapping[str, str], display: Display, *, what: str) -> None:
    """Run it and show what it prints. Raises `BuildFailed` with its last lines."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            text=True,
            errors="replace",
            start_new_session=True,  # so that Ctrl-C reaches it once, from us
        )
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be started", why=error.strerror or str(error)) from error
    reader = _Reader()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            for record in reader.records(line.rstrip("\n")):
                display.feed(record)
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()
    for record in reader.end(code):
        display.feed(record)
    if code:
        raise BuildFailed(
            f"{reader.failed}: {what}" if reader.failed else what,
            why="\n".join([*display.last_lines, f"{command[0]} ended with exit code {code}"]),
        )


def _end(process: subprocess.Popen[str]) -> None:
    """With everything it started. Asked first: a builder that is killed leaves its mounts."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_STOP_S)
            return
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue


class _Reader:
    """The lines of podman and buildah as records of a build's log. Other builders' lines are output."""

    def __init__(self) -> None:
        self._step: dict[str, Any] | None = None
        self._cached = False
        self.failed = ""

    def records(self, line: str) -> Iterator[dict[str, Any]]:
        found = _STEP.match(line)
        if found is None:
            self._cached = self._cached or line.startswith(_CACHED)
            yield {"kind": "output", "message": line}
            return
        yield from self._close(0)
        stage, number, of, text = found.groups()
        self._step = {"number": int(number), "of": int(of or number), "stage": stage or "", "text": text}
        yield {"kind": "step", "step": {"event": "started", **self._step}}

    def end(self, code: int) -> Iterator[dict[str, Any]]:
        if code and self._step is not None:
            self.failed = str(self._step["text"])
        yield from self._close(code)

    def _close(self, code: int) -> Iterator[dict[str, Any]]:
        if self._step is not None:
            ended = {"event": "ended", **self._step, "cached": self._cached, "exit_code": code}
            yield {"kind": "step", "step": ended}
        self._step, self._cached = None, False
