"""Where a Firecracker runs: a root directory of its own, with nothing in it but what its guest is made of.

The jailer makes it: it changes the root, gives up every right, and becomes Firecracker in the same process. What its
guest is made of lies elsewhere on the host, partly shared with other guests, and often on another file system than the
jail, so it cannot be linked into it. It is mounted, file by file, in a mount namespace that only this process has:
when it ends, the mounts are gone, whoever was there to see it.

    <directory>/   launch.sh   jail.sh   errors   console   root -> jail/firecracker/<id>/root
    root/          kernel initrd image tools config status scratch …   api.sock   vsock.sock   log
                   saved/state saved/memory     where a snapshot goes: files on a disk that have no name any more
                   before/state before/memory   the one that it goes on from

What Firecracker has to say is the host's and not the tenant's, and nobody may be there to read it: it goes into pipes,
which hold 64 KiB and drop, or hold back, the rest.

What its guest says comes byte by byte, as a serial port is. Between it and conmon, which would make a line of the log
of each, stands a program that waits for the ends of lines.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from caddisfly.host.drivers.microvm import snapshot
from caddisfly.host.drivers.microvm.vmm import Launch, Spec

SHARED_GID = 1_999_999_999
"""The group of all Firecrackers and of nobody else: it may read what guests share."""
API, VSOCK = "api.sock", "vsock.sock"
_ID_MAX = 64
_LINES_KB = 64 * 1024


@dataclass(frozen=True, slots=True)
class Jail:
    """One, by the directory of its sandbox."""

    directory: Path

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def alive(self) -> bool:
        """Whether its process is there, or is still to come."""
        return (pid := self.pid) is None or Path(f"/proc/{pid}/root").exists()

    @property
    def pid(self) -> int | None:
        """As conmon has written it."""
        try:
            return int((self.directory / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    @property
    def inside(self) -> Path:
        """Its root with its mounts, as its process sees them."""
        return Path(f"/proc/{self.pid}/root")

    def build(self, spec: Spec, *, firecracker: Path, jailer: Path, saves: Path) -> Launch:
        """Prepare everything, to be run as root. `saves` is a directory on a disk. Blocks."""
        base = self.directory / "jail"
        name = re.sub(r"[^a-zA-Z0-9-]", "-", spec.id)[:_ID_MAX]
        binary = firecracker.resolve()
        root = base / binary.name / name / "root"
        shutil.rmtree(base, ignore_errors=True)
        for directory in ("saved", "before"):
            (root / directory).mkdir(parents=True)
        self.root.unlink(missing_ok=True)
        self.root.symlink_to(root.relative_to(self.directory))
        self._pipe(root / "log", spec.uid)
        for pipe in ("errors", "console"):
            self._pipe(self.directory / pipe, 0)
        lines = ["set -e"]
        for inside, path, writable in _parts(spec):
            lines.append(self._mount(path, root / inside, writable=writable, spec=spec))
        lines += self._snapshots(spec, root, saves)
        netns = ("--netns", spec.tap.netns) if spec.tap is not None else ()
        command = [
            *(jailer, "--id", name, "--exec-file", binary, "--uid", spec.uid, "--gid", SHARED_GID),
            *("--chroot-base-dir", base, *netns),
            *("--", "--api-sock", f"/{API}", "--log-path", "/log", "--level", "Warning"),
        ]
        lines.append(f"exec {shlex.join(map(str, command))}")
        jail = self._script("jail.sh", lines)
        console, errors = (shlex.quote(str(self.directory / pipe)) for pipe in ("console", "errors"))
        isolated = shlex.join(("unshare", "--mount", "--propagation", "private", "/bin/sh", str(jail)))
        outside = [
            "ulimit -c 0",
            f"exec < /dev/null 2<> {errors}",
            # Not in that namespace: it would keep every mount of the host there that is not this Machine's.
            f"{_lines(spec.uid)} < {console} &",
            f"exec {isolated} > {console}",
        ]
        return Launch(
            argv=("/bin/sh", str(self._script("launch.sh", outside))),
            # As long as somebody has it, what is in the pipe is not lost.
            errors=os.open(self.directory / "errors", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC),
        )

    def _script(self, name: str, lines: list[str]) -> Path:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text("\n".join((*lines, "")))
        return path

    def said(self) -> str:
        """What Firecracker had to say, and what the jailer had. Once."""
        said = b""
        for pipe in (self.directory / "errors", self.root / "log"):
            try:
                descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                said += os.read(descriptor, 1 << 16)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)
        return said.decode(errors="replace").strip()[-500:]

    def _mount(self, path: Path, target: Path, *, writable: bool, spec: Spec) -> str:
        """The line that shows a file inside. It is the guest's alone, or may be read by all of them."""
        target.touch()
        if writable or path.is_relative_to(self.directory):
            os.chown(path, spec.uid, 0)
            path.chmod(0o600 if writable else 0o400)
        else:
            os.chown(path, 0, SHARED_GID)
            path.chmod(0o640)
        options = "rw" if writable else "ro"
        return f"mount -o bind,{options} {shlex.quote(str(path))} {shlex.quote(str(target))}"

    def _snapshots(self, spec: Spec, root: Path, saves: Path) -> list[str]:
        saves.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = {}
        for kind in ("saved", "before") if spec.saved is not None else ("saved",):
            for part in ("state", "memory"):
                files[f"{kind}/{part}"] = path = saves / f"{spec.id}-{kind}-{part}"
                path.unlink(missing_ok=True)
                path.touch(mode=0o600)
        if spec.saved is not None:
            snapshot.unpack(spec.saved, state=files["before/state"], memory=files["before/memory"])
        lines = []
        for inside, path in files.items():
            lines.append(self._mount(path, root / inside, writable=True, spec=spec))
            # From now on it is there as long as this process is.
            lines.append(f"rm {shlex.quote(str(path))}")
        return lines

    @staticmethod
    def _pipe(path: Path, uid: int) -> None:
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        os.chown(path, uid, 0)


def _lines(uid: int) -> str:
    """What makes lines of bytes. It has no more rights than Firecracker, and the memory for a long line."""
    unprivileged = f"setpriv --reuid {uid} --regid {uid} --clear-groups --no-new-privs --bounding-set=-all"
    return f"(ulimit -v {_LINES_KB}; exec env LC_ALL=C {unprivileged} -- grep -a --line-buffered '')"


def _parts(spec: Spec) -> list[tuple[str, Path, bool]]:
    drives = [(drive.role, drive.path, drive.writable) for drive in spec.drives]
    return [("kernel", spec.kernel, False), ("initrd", spec.initrd, False), *drives]
