"""Firecracker as a VMM, against a stand-in that holds every request against the description of its API.

What a real one does with a guest is in test_conformance.py, where there is one and a KVM that boots guests.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from caddisfly.host.drivers.microvm import link, snapshot
from caddisfly.host.drivers.microvm.api import Api, connected
from caddisfly.host.drivers.microvm.firecracker import Firecracker
from caddisfly.host.drivers.microvm.jail import SHARED_GID, Jail
from caddisfly.host.drivers.microvm.vmm import Drive, Spec, Tap
from caddisfly.model.errors import FailedPrecondition, Internal, Unavailable
from tests.conftest import eventually
from tests.drivers import firecracker_api as fake

UID = 2_000_000_123
ID = f"{'f' * 14}-00000001"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, of root alone, and nothing mounted below it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="caddis-fc-"))
    yield directory
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()
    shutil.rmtree(directory)


@pytest.fixture
async def vmm(place: Path, monkeypatch: pytest.MonkeyPatch) -> Firecracker:
    fake.install(place / "bin")
    monkeypatch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")
    made = Firecracker(saves=place / "saves")
    await made.fingerprint()
    return made


@pytest.fixture
def spec(place: Path) -> Spec:
    """Shared parts, and those of one Machine, as the driver lays them out."""
    shared, own = place / "shared", place / "microvms" / ID
    for directory in (shared, own):
        directory.mkdir(parents=True, mode=0o700)
    for name, content in (("vmlinux", b"\x7fELF kernel"), ("initramfs", b"initrd"), ("image", b"i"), ("tools", b"t")):
        (shared / name).write_bytes(content)
        (shared / name).chmod(0o600)
    for name in ("config", "status", "scratch"):
        (own / name).write_bytes(bytes(4096))
    return Spec(
        id=ID,
        directory=own,
        kernel=shared / "vmlinux",
        initrd=shared / "initramfs",
        words=("caddis.drives=image,tools,config,status,scratch",),
        vcpus=2,
        memory_mb=64,
        drives=(
            Drive(role="image", path=shared / "image"),
            Drive(role="tools", path=shared / "tools"),
            Drive(role="config", path=own / "config"),
            Drive(role="status", path=own / "status", writable=True),
            Drive(role="scratch", path=own / "scratch", writable=True),
        ),
        tap=None,
        uid=UID,
    )


@dataclass
class Running:
    """A process that was launched, in the part of conmon."""

    process: subprocess.Popen[bytes]
    spec: Spec

    @property
    def requests(self) -> list[dict[str, Any]]:
        lines = (Jail(self.spec.directory).root / fake.REQUESTS).read_text().splitlines()
        return [json.loads(line) for line in lines]

    async def console(self) -> str:
        """The next line of the guest's."""
        assert self.process.stdout is not None
        return (await asyncio.to_thread(self.process.stdout.readline)).decode().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Launcher:
    def __init__(self, vmm: Firecracker) -> None:
        self.vmm = vmm
        self.made: list[Running] = []

    async def __call__(self, spec: Spec, *, boot: bool = True) -> Running:
        launch = await self.vmm.launch(spec)
        process = await asyncio.to_thread(
            subprocess.Popen, launch.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        (spec.directory / "pid").write_text(str(process.pid))
        self.made.append(Running(process, spec))
        assert launch.errors is not None
        try:
            if boot:
                await self.vmm.boot(spec)
        finally:
            os.close(launch.errors)
        return self.made[-1]


@pytest.fixture
async def launched(vmm: Firecracker) -> AsyncIterator[Launcher]:
    launcher = Launcher(vmm)
    yield launcher
    for one in launcher.made:
        one.end()


async def test_it_proves_itself_and_says_what_is_missing(
    vmm: Firecracker, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await vmm.fingerprint()
    assert found.works == os.access("/dev/kvm", os.R_OK | os.W_OK), found.reason
    if found.works:
        assert found.version == fake.VERSION
        assert f"firecracker {fake.VERSION}" in vmm.build
    (place / "bin" / "jailer").write_text("#!/bin/sh\necho Jailer v1.9.0\n")
    assert (await vmm.fingerprint()).reason == "firecracker is 1.8.0 and jailer is 1.9.0"
    for name in ("firecracker", "jailer"):
        (place / "bin" / name).write_text("#!/bin/sh\necho v1.7.0\n")
    assert "1.8 is the oldest" in (await vmm.fingerprint()).reason
    monkeypatch.setenv("PATH", str(place / "nowhere"))
    assert "firecracker is not installed" in (await vmm.fingerprint()).reason


async def test_it_is_told_everything_in_an_order_that_it_takes(launched: Launcher, spec: Spec) -> None:
    running = await launched(spec)
    assert [(one["method"], one["path"]) for one in running.requests] == [
        ("PUT", "/machine-config"),
        ("PUT", "/boot-source"),
        *(("PUT", f"/drives/{role}") for role in ("image", "tools", "config", "status", "scratch")),
        ("PUT", "/vsock"),
        ("PUT", "/entropy"),
        ("PUT", "/balloon"),
        ("PUT", "/actions"),
    ]
    assert {one["status"] for one in running.requests} == {204}
    bodies = {one["path"]: one["body"] for one in running.requests}
    assert bodies["/machine-config"] == {"vcpu_count": 2, "mem_size_mib": 64, "smt": False}
    assert (bodies["/drives/image"]["is_read_only"], bodies["/drives/image"]["cache_type"]) == (True, "Unsafe")
    assert (bodies["/drives/scratch"]["is_read_only"], bodies["/drives/scratch"]["cache_type"]) == (False, "Writeback")
    words = (await running.console()).split()
    assert {"console=ttyS0", "reboot=k", "caddis.end=reboot", *spec.words} <= set(words)
    assert not {"nomodule", "8250.nr_uarts=0", "i8042.nopnp", "acpi=off"} & set(words), "what guests cannot do without"


async def test_its_console_comes_in_lines(launched: Launcher, spec: Spec, vmm: Firecracker) -> None:
    running = await launched(spec)
    assert running.process.stdout is not None
    console = running.process.stdout.fileno()
    read = [(await asyncio.to_thread(os.read, console, 4096)).decode()]
    for number in range(20):
        await vmm.tell(spec.directory, f"size {number}")
        read.append((await asyncio.to_thread(os.read, console, 4096)).decode())
    assert all(text.endswith("\n") for text in read)
    await vmm.tell(spec.directory, "reboot")
    assert (await asyncio.to_thread(os.read, console, 4096)).decode() == "order reboot\n", "also its last words"
    assert not await asyncio.to_thread(os.read, console, 4096)


async def test_it_runs_in_a_jail_without_any_right(launched: Launcher, spec: Spec) -> None:
    running = await launched(spec)
    facts = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{running.process.pid}/status").read_text().splitlines()
        if ":" in line
    )
    assert set(facts["Uid"].split()) == {str(UID)}
    assert set(facts["Gid"].split()) == {str(SHARED_GID)}
    assert not facts["Groups"].split()
    assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == 0
    inside = Jail(spec.directory).inside
    assert not {"etc", "proc", "usr", "root"} & {entry.name for entry in inside.iterdir()}
    assert (inside / "image").read_bytes() == b"i"
    for name, owner, mode in (("config", UID, 0o400), ("scratch", UID, 0o600), ("image", 0, 0o640)):
        found = (inside / name).stat()
        assert (found.st_uid, found.st_mode & 0o777) == (owner, mode), name
    assert not list((spec.directory / "root").glob("scratch/*"))
    assert not (Jail(spec.directory).root / "image").stat().st_size, "mounted for this process, and for nobody else"
    own = os.readlink(f"/proc/{running.process.pid}/ns/mnt")
    mounts = Path(f"/proc/{running.process.pid}/mountinfo").read_text().splitlines()
    assert own != os.readlink("/proc/self/ns/mnt")
    assert any(line.split()[4].endswith("/scratch") for line in mounts)
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    for pid in children:
        assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt"), "it keeps no mount alive"
        assert Path(f"/proc/{pid}").stat().st_uid == UID
    assert len(children) == 1


async def test_nothing_is_left_on_the_disk_when_it_ends(launched: Launcher, spec: Spec, place: Path) -> None:
    running = await launched(spec)
    assert not list((place / "saves").iterdir())
    running.end()
    launched.made.clear()
    shutil.rmtree(spec.directory)


@pytest.fixture
def netns() -> Iterator[Path]:
    name = f"caddis-fc-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "add", "br0", "type", "bridge"], check=True)
    yield Path("/run/netns") / name
    subprocess.run(["ip", "netns", "del", name], check=True)


async def test_its_card_is_the_machines_tap(launched: Launcher, spec: Spec, netns: Path) -> None:
    tap = Tap(netns=netns, name="tap0", mac="02:00:00:00:00:01")
    running = await launched(replace(spec, tap=tap))
    (told,) = [one["body"] for one in running.requests if one["path"].startswith("/network-interfaces/")]
    assert told == {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "02:00:00:00:00:01"}
    assert os.stat(f"/proc/{running.process.pid}/ns/net").st_ino == netns.stat().st_ino


async def test_a_tap_of_somebody_else_is_refused(
    launched: Launcher, spec: Spec, netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lend = link.lend_tap
    monkeypatch.setattr(link, "lend_tap", lambda netns, name, uid: lend(netns, name, uid + 1))
    tap = Tap(netns=netns, name="tap0", mac="02:00:00:00:00:01")
    with pytest.raises(Internal, match="Open tap device failed: Operation not permitted"):
        await launched(replace(spec, tap=tap))


async def test_lines_arrive_in_order_and_wait_for_a_guest_that_does_not_listen_yet(
    launched: Launcher, spec: Spec, vmm: Firecracker
) -> None:
    running = await launched(replace(spec, words=(*spec.words, "fake.listens=0.3")))
    await running.console()
    for number in range(5):
        await vmm.tell(spec.directory, f"signal {number}")
    assert [await running.console() for _ in range(5)] == [f"order signal {number}" for number in range(5)]


async def test_a_guest_gives_memory_back(launched: Launcher, spec: Spec, vmm: Firecracker) -> None:
    await launched(spec)
    assert await vmm.memory(spec.directory) == 64
    for memory_mb in (48, 64):
        await vmm.set_memory(spec.directory, memory_mb)
        assert await vmm.memory(spec.directory) == memory_mb


async def test_an_agent_that_came_later_finds_its_way_in(launched: Launcher, spec: Spec, place: Path) -> None:
    await launched(spec)
    later = Firecracker(saves=place / "saves")
    stream = await later.shell(spec.directory)
    with stream:
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(stream, 100) == b"SSH-2.0-fake\r\n", "not a byte of the greeting is lost"
        await loop.sock_sendall(stream, b"hello")
        assert await loop.sock_recv(stream, 100) == b"hello"


async def test_a_guest_that_has_gone_is_said_to_be(launched: Launcher, spec: Spec, vmm: Firecracker) -> None:
    running = await launched(spec)
    await vmm.tell(spec.directory, "reboot")
    assert await asyncio.to_thread(running.process.wait, 10) == 0
    began = time.monotonic()
    for call in (vmm.tell(spec.directory, "signal 15"), vmm.resume(spec.directory)):
        with pytest.raises(Unavailable, match="ended"):
            await call
    assert time.monotonic() - began < 5


async def test_a_saved_guest_goes_on_in_a_new_process_and_again(
    launched: Launcher, spec: Spec, vmm: Firecracker, place: Path
) -> None:
    running = await launched(spec)
    saved = place / "saved"
    for round in range(1, 4):
        await vmm.tell(spec.directory, f"signal {round}")
        with saved.open("wb") as target:
            await vmm.save(spec.directory, target.fileno())
        assert running.requests[-1]["body"]["snapshot_type"] == "Full"
        running.end()
        running = await launched(replace(spec, saved=saved))
        assert await running.console() == f"went on after {round} orders"
        assert [one["path"] for one in running.requests] == ["/snapshot/load"]
    assert saved.stat().st_size > spec.memory_mb << 20


async def test_a_guest_that_could_not_be_saved_goes_on(launched: Launcher, spec: Spec, vmm: Firecracker) -> None:
    running = await launched(spec)
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(Unavailable, match="cannot be written"):
        await vmm.save(spec.directory, full)
    os.close(full)
    await vmm.resume(spec.directory)
    await vmm.tell(spec.directory, "signal 1")
    assert running.requests[-1]["body"] == {"state": "Resumed"}


async def test_a_state_that_is_not_whole_is_never_loaded(launched: Launcher, spec: Spec, place: Path) -> None:
    broken = place / "broken"
    state, memory = place / "state", place / "memory"
    state.write_bytes(b"state")
    memory.write_bytes(bytes(8192))
    with broken.open("wb") as target:
        snapshot.pack(target.fileno(), state=state, memory=memory)
    whole = broken.read_bytes()
    for content in (b"", whole[:-1], whole[1:], whole + b"x"):
        broken.write_bytes(content)
        with pytest.raises(FailedPrecondition, match="cannot be read"):
            await launched(replace(spec, saved=broken))
    broken.write_bytes(whole)
    with pytest.raises(Internal, match=r"refused PUT /snapshot/load: .*Failed to restore from snapshot"):
        await launched(replace(spec, saved=broken))
    process = launched.made[-1].process
    assert await asyncio.to_thread(process.wait, 10) == 1, "such a Firecracker ends"


async def test_what_it_says_against_a_machine_is_passed_on(launched: Launcher, spec: Spec) -> None:
    with pytest.raises(FailedPrecondition, match="at most 32 vCPUs"):
        await launched(replace(spec, vcpus=33))
    spec.kernel.write_bytes(b"MZ a kernel of another kind")
    with pytest.raises(Internal, match=r"refused PUT /actions: .*failed to load ELF"):
        await launched(spec)


async def test_a_jailer_that_fails_says_why(launched: Launcher, spec: Spec, place: Path) -> None:
    (place / "bin" / "jailer").write_text("#!/bin/sh\necho nothing works here >&2\nexit 1\n")
    with pytest.raises(Unavailable, match="nothing works here"):
        await asyncio.gather(launched(spec), _reaped(launched))


async def _reaped(launched: Launcher) -> None:
    """Reap it, as conmon would."""
    await eventually(lambda: launched.made and launched.made[0].process.poll() is not None)


class TestTheStandIn:
    """It refuses what a real one refuses, or it would prove nothing."""

    @pytest.fixture
    async def api(self, launched: Launcher, spec: Spec) -> AsyncIterator[Api]:
        await launched(spec, boot=False)
        jail = Jail(spec.directory)
        async with connected(jail.root / "api.sock", alive=lambda: jail.alive) as api:
            yield api

    @pytest.mark.parametrize(
        ("path", "members", "fault"),
        [
            ("/nothing", {}, "Invalid request method and/or path: PUT nothing"),
            ("/serial", {"serial_out_path": "/x"}, "Invalid request method"),
            ("/machine-config", {"vcpu_count": 1}, "missing field `mem_size_mib`"),
            ("/machine-config", {"vcpu_count": "1", "mem_size_mib": 64}, 'invalid type: "1", expected an integer'),
            ("/machine-config", {"vcpu_count": True, "mem_size_mib": 64}, "invalid type: true"),
            ("/machine-config", {"vcpu_count": 33, "mem_size_mib": 64}, "The number of vCPUs must be"),
            ("/machine-config", {"vcpu_count": 1, "mem_size_mib": 64, "ht": False}, "unknown field `ht`"),
            ("/boot-source", {"kernel_image_path": "/nowhere"}, "The kernel file cannot be opened"),
            ("/drives/a-b", {"drive_id": "a-b", "is_root_device": False}, "alphanumeric characters"),
            ("/drives/a", {"drive_id": "b", "is_root_device": False}, "does not match the id from the body"),
            (
                "/drives/a",
                {"drive_id": "a", "is_root_device": False, "is_read_only": False, "path_on_host": "/image"},
                "Permission denied|Read-only file system",
            ),
            (
                "/network-interfaces/eth0",
                {"iface_id": "eth0", "host_dev_name": "tap0", "mtu": 9000},
                "unknown field `mtu`",
            ),
            ("/vsock", {"guest_cid": 2, "uds_path": "/v"}, "invalid value: integer `2`"),
            ("/actions", {"action_type": "Reboot"}, "unknown variant `Reboot`"),
            ("/actions", {"action_type": "InstanceStart"}, "Cannot start microvm without kernel configuration"),
            ("/actions", {"action_type": "SendCtrlAltDel"}, "not supported before starting"),
            ("/snapshot/create", {"snapshot_path": "/s", "mem_file_path": "/m"}, "not supported before starting"),
            ("/snapshot/load", {"snapshot_path": "/s"}, "either `mem_backend` or `mem_file_path`"),
            (
                "/snapshot/load",
                {"snapshot_path": "/s", "mem_backend": {"backend_path": "/m"}},
                "missing field `backend_type`",
            ),
        ],
    )
    async def test_before_a_start(self, api: Api, path: str, members: dict[str, Any], fault: str) -> None:
        with pytest.raises(Internal, match=fault):
            await api.put(path, **members)

    async def test_in_order_only(self, api: Api, vmm: Firecracker, spec: Spec) -> None:
        assert (await api.get("/"))["state"] == "Not started"
        with pytest.raises(Internal, match="not supported before starting"):
            await api.patch("/vm", state="Paused")
        await api.put("/machine-config", vcpu_count=1, mem_size_mib=64)
        backend = {"backend_type": "File", "backend_path": "/before/memory"}
        with pytest.raises(Internal, match="not allowed after configuring boot-specific resources"):
            await api.put("/snapshot/load", snapshot_path="/before/state", mem_backend=backend)
        await api.put("/boot-source", kernel_image_path="/kernel")
        await api.put("/actions", action_type="InstanceStart")
        for call in (
            api.put("/actions", action_type="InstanceStart"),
            api.put("/machine-config", vcpu_count=1, mem_size_mib=64),
            api.put("/vsock", guest_cid=3, uds_path="/v"),
            api.put("/snapshot/load", snapshot_path="/before/state", mem_backend=backend),
        ):
            with pytest.raises(Internal, match="not supported after starting"):
                await call
        snapshot_files = {"snapshot_path": "/saved/state", "mem_file_path": "/saved/memory"}
        with pytest.raises(Internal, match="not paused"):
            await api.put("/snapshot/create", **snapshot_files)
        await api.patch("/vm", state="Paused")
        await api.put("/snapshot/create", **snapshot_files)
        assert (await api.get("/"))["state"] == "Paused"
