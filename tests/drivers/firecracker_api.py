"""A Firecracker without a KVM, and its jailer: everything that its user sees of it, and nothing that runs.

Run as a program it is either of the two, by its first word. It speaks the API as its public description has it
(`swagger/firecracker.yaml`) for version 1.8, the oldest that is supported, so that what came later is an unknown member
to it, as it is to a real one. Each request is held against that description and against the order of things: 400 with a
`fault_message` in the real one's words, and for a snapshot that cannot be loaded its end. Files, tap and sockets are
opened where a real one opens them, as the user that it was made, from inside its jail.

Its guest is a few words: it says on the console with what it was booted, it listens on vsock after `fake.listens=`
seconds, repeats there each order that it got, and keeps them all in its "memory".
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = "1.8.0"
REQUESTS = "requests.jsonl"
"""In the jail: what was asked for, and how it was answered."""
NOT_STARTED, RUNNING, PAUSED = "Not started", "Running", "Paused"
_HTTP_MAX = 51_200
_MIB = 1 << 20


class Refused(Exception):
    """400, with these words."""


@dataclass(frozen=True, slots=True)
class Member:
    """What one member of a body may be."""

    type: type
    required: bool = False
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    members: Mapping[str, Member] | None = None

    def check(self, name: str, value: Any) -> None:
        expected = {str: "a string", int: "an integer", bool: "a boolean", dict: "a map", list: "a sequence"}[self.type]
        if not isinstance(value, self.type) or (self.type is int and isinstance(value, bool)):
            raise _unreadable(f"invalid type: {json.dumps(value)}, expected {expected}")
        if self.choices and value not in self.choices:
            known = ", ".join(f"`{choice}`" for choice in self.choices)
            raise _unreadable(f"unknown variant `{value}`, expected one of {known}")
        if (self.least is not None and value < self.least) or (self.most is not None and value > self.most):
            raise _unreadable(f"invalid value: integer `{value}` for {name}")
        if self.members is not None:
            check(self.members, value)


def _unreadable(why: str) -> Refused:
    return Refused(f"An error occurred when deserializing the json body of a request: {why}.")


def check(members: Mapping[str, Member], body: Any) -> None:
    """As serde does with `deny_unknown_fields`."""
    if not isinstance(body, dict):
        raise _unreadable("invalid type, expected a map")
    for name, value in body.items():
        if name not in members:
            known = ", ".join(f"`{name}`" for name in members)
            raise _unreadable(f"unknown field `{name}`, expected one of {known}")
        if value is not None or members[name].required:
            members[name].check(name, value)
    for name, member in members.items():
        if member.required and name not in body:
            raise _unreadable(f"missing field `{name}`")


_BUCKET = {
    "size": Member(int, required=True, least=0),
    "refill_time": Member(int, required=True, least=0),
    "one_time_burst": Member(int, least=0),
}
_LIMITER = {"bandwidth": Member(dict, members=_BUCKET), "ops": Member(dict, members=_BUCKET)}
_MACHINE = {
    "vcpu_count": Member(int, required=True),
    "mem_size_mib": Member(int, required=True, least=0),
    "smt": Member(bool),
    "cpu_template": Member(str, choices=("C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None")),
    "track_dirty_pages": Member(bool),
    "huge_pages": Member(str, choices=("None", "2M")),
}
BODIES: dict[tuple[str, str], Mapping[str, Member]] = {
    ("PUT", "actions"): {
        "action_type": Member(str, required=True, choices=("FlushMetrics", "InstanceStart", "SendCtrlAltDel"))
    },
    ("PUT", "boot-source"): {
        "kernel_image_path": Member(str, required=True),
        "initrd_path": Member(str),
        "boot_args": Member(str),
    },
    ("PUT", "drives"): {
        "drive_id": Member(str, required=True),
        "is_root_device": Member(bool, required=True),
        "partuuid": Member(str),
        "cache_type": Member(str, choices=("Unsafe", "Writeback")),
        "is_read_only": Member(bool),
        "path_on_host": Member(str),
        "rate_limiter": Member(dict, members=_LIMITER),
        "io_engine": Member(str, choices=("Sync", "Async")),
        "socket": Member(str),
    },
    ("PATCH", "drives"): {
        "drive_id": Member(str, required=True),
        "path_on_host": Member(str),
        "rate_limiter": Member(dict, members=_LIMITER),
    },
    ("PUT", "logger"): {
        "log_path": Member(str),
        "level": Member(str, choices=("Error", "Warning", "Info", "Debug", "Trace", "Off")),
        "show_level": Member(bool),
        "show_log_origin": Member(bool),
        "module": Member(str),
    },
    ("PUT", "machine-config"): _MACHINE,
    ("PATCH", "machine-config"): {name: Member(one.type, choices=one.choices) for name, one in _MACHINE.items()},
    ("PUT", "metrics"): {"metrics_path": Member(str, required=True)},
    ("PUT", "network-interfaces"): {
        "iface_id": Member(str, required=True),
        "host_dev_name": Member(str, required=True),
        "guest_mac": Member(str),
        "rx_rate_limiter": Member(dict, members=_LIMITER),
        "tx_rate_limiter": Member(dict, members=_LIMITER),
    },
    ("PUT", "snapshot/create"): {
        "snapshot_path": Member(str, required=True),
        "mem_file_path": Member(str, required=True),
        "snapshot_type": Member(str, choices=("Full", "Diff")),
    },
    ("PUT", "snapshot/load"): {
        "snapshot_path": Member(str, required=True),
        "mem_file_path": Member(str),
        "mem_backend": Member(
            dict,
            members={
                "backend_path": Member(str, required=True),
                "backend_type": Member(str, required=True, choices=("File", "Uffd")),
            },
        ),
        "enable_diff_snapshots": Member(bool),
        "resume_vm": Member(bool),
    },
    ("PATCH", "vm"): {"state": Member(str, required=True, choices=("Paused", "Resumed"))},
    ("PUT", "vsock"): {
        "guest_cid": Member(int, required=True, least=3, most=(1 << 32) - 1),
        "uds_path": Member(str, required=True),
        "vsock_id": Member(str),
    },
    ("PUT", "entropy"): {"rate_limiter": Member(dict, members=_LIMITER)},
    ("PUT", "balloon"): {
        "amount_mib": Member(int, required=True, least=0),
        "deflate_on_oom": Member(bool, required=True),
        "stats_polling_interval_s": Member(int, least=0, most=65535),
    },
    ("PATCH", "balloon"): {"amount_mib": Member(int, required=True, least=0)},
}
_WITH_ID = {"drives": "drive_id", "network-interfaces": "iface_id"}
_ANY_TIME = {"GET ", "GET version", "GET machine-config", "GET vm/config"}
_BEFORE = {
    *("PUT boot-source", "PUT drives", "PUT logger", "PUT machine-config", "PATCH machine-config", "PUT metrics"),
    *("PUT network-interfaces", "PUT snapshot/load", "PUT vsock", "PUT entropy", "PUT balloon", "InstanceStart"),
}
_NOT_BOOTING = {"PUT logger", "PUT metrics"}
"""After which a snapshot can still be loaded."""


class Guest:
    """What would run. It stands still while it is paused."""

    def __init__(self, words: str, orders: list[str]) -> None:
        self.orders = orders
        found = re.search(r"fake\.listens=([\d.]+)", words)
        self._listens_at = time.monotonic() + float(found[1] if found else 0)
        self.going = threading.Event()
        self.going.set()

    def listens(self, port: int) -> bool:
        return port in (1024, 1025) and time.monotonic() >= self._listens_at

    def serve(self, stream: socket.socket) -> None:
        with stream, stream.makefile("rwb") as file:
            command = file.readline().split()
            self.going.wait()
            if command[:1] != [b"CONNECT"] or not self.listens(int(command[1])):
                return
            file.write(b"OK 1073741824\n")
            file.flush()
            if command[1] == b"1025":
                file.write(b"SSH-2.0-fake\r\n")
                file.flush()
                while data := stream.recv(4096):
                    stream.sendall(data)
                return
            for line in file:
                self.going.wait()
                self.orders.append(line.decode().strip())
                _console(f"order {self.orders[-1]}")
                file.write(b"ok\n")
                file.flush()
                if self.orders[-1] == "reboot":
                    os._exit(0)


@dataclass
class Machine:
    """The state behind the API."""

    state: str = NOT_STARTED
    booting: bool = False
    machine: dict[str, Any] = field(default_factory=lambda: {"vcpu_count": 1, "mem_size_mib": 128, "smt": False})
    boot: dict[str, Any] | None = None
    drives: dict[str, dict[str, Any]] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    vsock: dict[str, Any] | None = None
    balloon: dict[str, Any] | None = None
    guest: Guest | None = None
    doomed: bool = False
    _held: list[Any] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """The content of a 200, or None for 204. Raises `Refused`."""
        tokens = path.strip("/").split("/")
        kind = "/".join(tokens[:2]) if tokens[0] in ("snapshot", "vm", "balloon") else tokens[0]
        if method == "GET":
            return self._asked(kind, body)
        members = BODIES.get((method, kind))
        if members is None:
            raise Refused(f"Invalid request method and/or path: {method} {kind}.")
        if not body:
            raise Refused(f"Empty {method} request.")
        try:
            given = json.loads(body)
        except ValueError as error:
            raise _unreadable(str(error)) from error
        if kind in _WITH_ID:
            if len(tokens) != 2 or not tokens[1]:
                raise Refused("The ID cannot be empty.")
            if not re.fullmatch(r"\w+", tokens[1]):
                raise Refused("API Resource IDs can only contain alphanumeric characters and underscores.")
        check(members, given)
        if kind in _WITH_ID and given[_WITH_ID[kind]] != tokens[1]:
            raise Refused("The id from the path does not match the id from the body!")
        name = given["action_type"] if kind == "actions" else f"{method} {kind}"
        if self.state == NOT_STARTED and name not in _BEFORE:
            raise Refused("The requested operation is not supported before starting the microVM.")
        if self.state != NOT_STARTED and name in _BEFORE:
            raise Refused("The requested operation is not supported after starting the microVM.")
        if name in _BEFORE - _NOT_BOOTING - {"PUT snapshot/load"}:
            self.booting = True
        _DOES[name](self, given)
        return None

    def _asked(self, kind: str, body: bytes) -> Any:
        if body:
            raise Refused("GET request cannot have a body.")
        if kind == "balloon/statistics":
            return self._statistics()
        if f"GET {kind}" not in _ANY_TIME:
            raise Refused(f"Invalid request method and/or path: GET {kind}.")
        return {
            "": {"app_name": "Firecracker", "id": "fake", "state": self.state, "vmm_version": VERSION},
            "version": {"firecracker_version": VERSION},
            "machine-config": self.machine,
            "vm/config": {"machine-config": self.machine, "drives": [*self.drives.values()], "vsock": self.vsock},
        }[kind]

    def _statistics(self) -> dict[str, int]:
        if self.state == NOT_STARTED:
            raise Refused("The requested operation is not supported before starting the microVM.")
        if self.balloon is None:
            raise Refused("Internal VMM error: Balloon error: Device not found.")
        if not self.balloon.get("stats_polling_interval_s"):
            raise Refused("Internal VMM error: Balloon error: Statistics for the balloon device are not enabled")
        size = int(self.balloon["amount_mib"])
        return {"target_pages": size << 8, "actual_pages": size << 8, "target_mib": size, "actual_mib": size}

    def set_balloon(self, given: dict[str, Any]) -> None:
        if given["amount_mib"] > self.machine["mem_size_mib"]:
            raise Refused("Balloon config error: Balloon size in config exceeds memory size")
        self.balloon = {**(self.balloon or {}), **given}

    def set_machine(self, given: dict[str, Any]) -> None:
        wanted = {**self.machine, **given}
        if not 1 <= wanted["vcpu_count"] <= 32 or (
            wanted["smt"] and wanted["vcpu_count"] % 2 and wanted["vcpu_count"] > 1
        ):
            raise Refused(
                "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an "
                "even number if SMT is enabled."
            )
        if not wanted["mem_size_mib"]:
            raise Refused(
                "Machine config error: The memory size (MiB) is either 0, or not a multiple of the page size."
            )
        self.machine = wanted

    def set_boot(self, given: dict[str, Any]) -> None:
        for name, what in (("kernel_image_path", "kernel"), ("initrd_path", "initrd")):
            try:
                if name in given:
                    os.close(os.open(given[name], os.O_RDONLY))
            except OSError as error:
                raise Refused(f"Boot source error: The {what} file cannot be opened: {error.strerror}") from error
        if len(given.get("boot_args", "")) > 2048:
            raise Refused("Boot source error: The kernel command line is invalid: too large")
        self.boot = given

    def set_drive(self, given: dict[str, Any]) -> None:
        if ("path_on_host" in given and "is_read_only" in given) == ("socket" in given):
            raise Refused("Drive config error: Unable to create the block device: Invalid configuration")
        if given["is_root_device"] and any(drive["is_root_device"] for drive in self.drives.values()):
            raise Refused("Drive config error: A root block device already exists!")
        self._open_drive(given)
        self.drives[given["drive_id"]] = given

    def _open_drive(self, given: dict[str, Any]) -> None:
        try:
            flags = os.O_RDONLY if given["is_read_only"] else os.O_RDWR
            self._held.append(os.open(given["path_on_host"], flags))
        except OSError as error:
            raise Refused(
                "Drive config error: Unable to create the virtio block device: Virtio backend error: Error "
                f"manipulating the backing file: {error.strerror} (os error {error.errno}) {given['path_on_host']}"
            ) from error

    def set_card(self, given: dict[str, Any]) -> None:
        mac = given.get("guest_mac", "00:00:00:00:00:00")
        if not re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", mac):
            raise _unreadable(f"invalid value: string {mac!r}, expected a MAC address")
        if any(card.get("guest_mac") == mac for name, card in self.cards.items() if name != given["iface_id"]):
            raise Refused(f"Network config error: The MAC address is already in use: {mac}")
        self._open_tap(given)
        self.cards[given["iface_id"]] = given

    def _open_tap(self, given: dict[str, Any]) -> None:
        try:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            self._held.append(descriptor)
            flags = 0x2 | 0x1000 | 0x4000  # tap, no packet information, with an offload header
            fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", given["host_dev_name"].encode(), flags))
        except OSError as error:
            raise Refused(
                f"Network config error: Could not create the network device: Open tap device failed: {error.strerror}"
            ) from error

    def set_vsock(self, given: dict[str, Any]) -> None:
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(given["uds_path"])
        except OSError as error:
            raise Refused(
                f"Vsock config error: Cannot create backend for vsock device: UnixBind({error.strerror})"
            ) from error
        listener.listen()
        self.vsock = given
        threading.Thread(target=self._serve_vsock, args=(listener,), daemon=True).start()

    def _serve_vsock(self, listener: socket.socket) -> None:
        while True:
            stream, _ = listener.accept()
            if self.guest is None:
                stream.close()
            else:
                threading.Thread(target=self.guest.serve, args=(stream,), daemon=True).start()

    def start(self, given: dict[str, Any]) -> None:
        if self.boot is None:
            raise Refused("Start microvm error: Cannot start microvm without kernel configuration.")
        with open(self.boot["kernel_image_path"], "rb") as kernel:
            if kernel.read(4) != b"\x7fELF":
                raise Refused(
                    "Start microvm error: Cannot load kernel due to invalid memory configuration or invalid "
                    "kernel image: Kernel Loader: failed to load ELF kernel image"
                )
        self.state = RUNNING
        self.guest = Guest(self.boot.get("boot_args", ""), [])
        _console(f"booted with {self.boot.get('boot_args', '')}")

    def set_state(self, given: dict[str, Any]) -> None:
        assert self.guest is not None
        self.state = PAUSED if given["state"] == "Paused" else RUNNING
        if self.state == PAUSED:
            self.guest.going.clear()
        else:
            self.guest.going.set()

    def save(self, given: dict[str, Any]) -> None:
        assert self.guest is not None
        if self.state != PAUSED:
            raise Refused(
                "Create snapshot error: Cannot save the microVM: Operation not allowed: microVM is not paused"
            )
        size = self.machine["mem_size_mib"] * _MIB
        content = json.dumps(self.guest.orders).encode()
        state = {name: getattr(self, name) for name in ("machine", "boot", "drives", "cards", "vsock", "balloon")}
        try:
            with open(given["mem_file_path"], "wb") as memory:
                memory.write(content + b"\n")
                memory.truncate(size)
            Path(given["snapshot_path"]).write_text(json.dumps({"version": VERSION, **state}))
        except OSError as error:
            raise Refused(f"Create snapshot error: Cannot open memory file: {error.strerror}") from error

    def load(self, given: dict[str, Any]) -> None:
        if ("mem_backend" in given) == ("mem_file_path" in given):
            raise _unreadable("missing field: either `mem_backend` or `mem_file_path` is required")
        if self.booting:
            raise Refused(
                "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources."
            )
        self.doomed = True  # a process that got so far and no further is good for nothing
        backend = given.get("mem_backend") or {"backend_path": given["mem_file_path"]}
        try:
            saved = json.loads(Path(given["snapshot_path"]).read_text())
            memory = Path(backend["backend_path"])
            if saved["version"] != VERSION or memory.stat().st_size != saved["machine"]["mem_size_mib"] * _MIB:
                raise ValueError("the memory file does not fit")
            with memory.open("rb") as file:
                orders = json.loads(file.readline())
        except (OSError, ValueError, KeyError) as error:
            raise Refused(f"Load snapshot error: Failed to restore from snapshot: {error}") from error
        for name in ("machine", "boot", "drives", "cards", "balloon"):
            setattr(self, name, saved[name])
        for drive in self.drives.values():
            self._open_drive(drive)
        for card in self.cards.values():
            self._open_tap(card)
        self.guest = Guest("", orders)
        if saved["vsock"]:
            self.set_vsock(saved["vsock"])
        self.doomed = False
        self.set_state({"state": "Resumed" if given.get("resume_vm") else "Paused"})
        _console(f"went on after {len(orders)} orders")


def _nothing(machine: Machine, given: dict[str, Any]) -> None:
    """Nobody sees what this does."""


_DOES: dict[str, Callable[[Machine, dict[str, Any]], None]] = {
    "PUT machine-config": Machine.set_machine,
    "PATCH machine-config": Machine.set_machine,
    "PUT boot-source": Machine.set_boot,
    "PUT drives": Machine.set_drive,
    "PATCH drives": _nothing,
    "PUT network-interfaces": Machine.set_card,
    "PUT vsock": Machine.set_vsock,
    "PUT entropy": _nothing,
    "PUT balloon": Machine.set_balloon,
    "PATCH balloon": Machine.set_balloon,
    "PUT logger": _nothing,
    "PUT metrics": _nothing,
    "InstanceStart": Machine.start,
    "FlushMetrics": _nothing,
    "SendCtrlAltDel": _nothing,
    "PATCH vm": Machine.set_state,
    "PUT snapshot/create": Machine.save,
    "PUT snapshot/load": Machine.load,
}


def _console(text: str) -> None:
    """A serial port: a byte is a write."""
    for byte in f"{text}\n".encode():
        os.write(1, bytes((byte,)))


def serve(path: str) -> None:
    """Answer requests until the end, one connection at a time, as the real one's single API thread does."""
    machine = Machine()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            stream, _ = listener.accept()
            with stream, stream.makefile("rwb") as file:
                while _one(machine, file):
                    pass


def _one(machine: Machine, file: Any) -> bool:
    line = file.readline().decode().split()
    if len(line) != 3:
        return False
    method, path, _ = line
    length = 0
    while (header := file.readline().strip().lower()) != b"":
        name, _, value = header.partition(b":")
        length = int(value) if name == b"content-length" else length
    body = file.read(length)
    status, content = 204, b""
    try:
        if length > _HTTP_MAX:
            raise Refused("Payload too large")
        found = machine.answer(method, path, body)
        if found is not None:
            status, content = 200, json.dumps(found).encode()
    except Refused as refused:
        status, content = 400, json.dumps({"fault_message": str(refused)}).encode()
    with open(f"/{REQUESTS}", "a") as log:
        given = json.loads(body) if body and status != 400 else body.decode(errors="replace")
        log.write(json.dumps({"method": method, "path": path, "body": given, "status": status}) + "\n")
    head = f"HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
    if content:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    file.write(f"{head}\r\n".encode() + content)
    file.flush()
    if machine.doomed:
        os._exit(1)
    return True


def firecracker(words: list[str]) -> None:
    if words == ["--version"]:
        _console(f"Firecracker v{VERSION}\n")
        return
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--id", required=True)
    parser.add_argument("--api-sock", default="/run/firecracker.socket")
    parser.add_argument("--log-path")
    parser.add_argument("--level", choices=("Error", "Warning", "Info", "Debug", "Trace", "Off"))
    parser.add_argument("--start-time-us")
    parser.add_argument("--start-time-cpu-us")
    options = parser.parse_args(words)
    if options.log_path:
        log = os.open(options.log_path, os.O_RDWR | os.O_NONBLOCK)
        os.write(log, b"Running Firecracker\n")
    serve(options.api_sock)


def jailer(words: list[str]) -> None:
    """docs/jailer.md, step by step; but for the last, in which the real one is replaced by Firecracker."""
    if words == ["--version"]:
        _console(f"Jailer v{VERSION}\n")
        return
    own, extra = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("id", "exec-file", "uid", "gid"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--chroot-base-dir", default="/srv/jailer")
    parser.add_argument("--netns")
    for name in ("cgroup", "resource-limit", "cgroup-version", "parent-cgroup"):
        parser.add_argument(f"--{name}", action="append")
    parser.add_argument("--daemonize", action="store_true")
    parser.add_argument("--new-pid-ns", action="store_true")
    options = parser.parse_args(own)
    if not re.fullmatch(r"[a-zA-Z0-9-]{1,64}", options.id):
        sys.exit(f"Invalid instance ID: {options.id}")
    exec_file = Path(options.exec_file).resolve(strict=True)
    if "firecracker" not in exec_file.name:
        sys.exit('Invalid filename. The filename of `--exec-file` option must contain "firecracker"')
    os.closerange(3, 4096)
    os.environ.clear()
    root = Path(options.chroot_base_dir).resolve(strict=True) / exec_file.name / options.id / "root"
    root.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(exec_file, root / exec_file.name)
    uid, gid = int(options.uid), int(options.gid)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x20000) or libc.mount(None, b"/", None, (1 << 19) | 0x4000, None):
        sys.exit("Failed to unshare into a new mount namespace")
    if libc.mount(bytes(root), bytes(root), None, 0x1000 | 0x4000, None):
        sys.exit("Failed to bind mount the jail root directory")
    netns = os.open(options.netns, os.O_RDONLY) if options.netns else None
    os.chroot(root)
    os.chdir("/")
    for directory in ("/", "/dev", "/dev/net", "/run"):
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, 0o700)
        os.chown(directory, uid, gid)
    for device, minor in (("/dev/net/tun", 200), ("/dev/kvm", 232)):
        os.mknod(device, 0o20600, os.makedev(10, minor))
        os.chown(device, uid, gid)
    if netns is not None and libc.setns(netns, 0x40000000):
        sys.exit("Failed to join network namespace")
    os.closerange(3, 4096)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    firecracker(["--id", options.id, "--start-time-us", "0", "--start-time-cpu-us", "0", *extra])


def install(directory: Path) -> None:
    """Put both where `PATH` may lead."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("firecracker", "jailer"):
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {Path(__file__).resolve()} {name} "$@"\n')
        program.chmod(0o755)


if __name__ == "__main__":
    {"firecracker": firecracker, "jailer": jailer}[sys.argv[1]](sys.argv[2:])
