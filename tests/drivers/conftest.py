"""Every driver, one after the other, behind the same fixtures."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caddisfly.host.drivers.driver import Driver, Drives, Limits, Sandbox, TakesDrives
from caddisfly.host.drivers.microvm.driver import MicrovmDriver
from caddisfly.host.drivers.microvm.firecracker import Firecracker
from caddisfly.host.drivers.microvm.qemu import Qemu
from caddisfly.host.drivers.mock import MockDriver
from caddisfly.host.drivers.oci.cgroups import ControlGroups, layout
from caddisfly.host.drivers.oci.checkpoint import Quiet
from caddisfly.host.drivers.oci.driver import OciDriver
from caddisfly.host.drivers.several import Several
from caddisfly.host.images import erofs
from caddisfly.host.images.build import busybox_layer
from caddisfly.host.images.rootfs import make_ext4
from caddisfly.model.isolation import CONTAINER, GVISOR, Isolation
from tests.leaks import TEST_DIRECTORY, traces

_number = itertools.count(1)


class Silence:
    """The network of sandboxes that have none."""

    async def hush(self, id: str) -> None: ...

    async def unhush(self, id: str) -> None: ...

    async def attempts(self, id: str) -> int:
        return 0

    async def open_connections(self, id: str) -> tuple[str, ...]:
        return ()


class Bench:
    """A driver, a root to run in, and a way to get the same driver anew, as after a restart of the agent."""

    def __init__(self, driver: Driver, anew: Callable[[], Any], abilities: frozenset[str], directory: Path) -> None:
        self.driver, self.abilities, self.directory = driver, abilities, directory
        self._anew = anew
        self.made: list[str] = []

    async def restarted(self) -> Driver:
        if isinstance(self.driver, MicrovmDriver):
            await self.driver.close()  # a process that dies lets go of its sockets, which this one does not
        self.driver = await self._anew()
        return self.driver

    def sandbox(self, line: str = "while :; do sleep 1; done", **changes: Any) -> Sandbox:
        id = f"{'d' * 14}-{next(_number):08x}"
        self.made.append(id)
        made = Sandbox(
            id=id,
            root=self.directory / "root",
            argv=("/bin/sh", "-c", line),
            env=("PATH=/bin", "GREETING=hi"),
            cwd="/tmp",
            uid=65534,
            gid=65534,
            gids=(),
            hostname="tested",
            netns=None,
            binds=(),
            limits=Limits(cores=1.0, weight=100, memory_mb=128, pids=256),
            log=self.directory / "logs" / f"{id}.log",
            organization="tested",
        )
        made = replace(made, **changes)
        return replace(made, drives=self._drives(made)) if isinstance(self.driver, TakesDrives) else made

    def _drives(self, sandbox: Sandbox) -> Drives:
        """What the image store would have made of its root."""
        image, scratch = self.directory / "root.erofs", self.directory / f"{sandbox.id}.ext4"
        if not image.exists():
            erofs.build(self.directory / "root", image)
        make_ext4(scratch, size_mb=64)
        return Drives(image=image if sandbox.root.exists() else sandbox.root, scratch=scratch)


@pytest.fixture(scope="session")
def root() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=TEST_DIRECTORY))
    directory.chmod(0o755)
    (directory / "root").mkdir()
    subprocess.run(["tar", "-x", "-C", directory / "root"], input=busybox_layer(), check=True)
    yield directory
    subprocess.run(["rm", "-rf", directory], check=True)


@pytest.fixture(params=["mock", "several", "oci/crun", "oci/runc", "oci/runsc", "microvm/qemu", "microvm/firecracker"])
async def bench(request: pytest.FixtureRequest, root: Path) -> AsyncIterator[Bench]:
    before = traces()
    kind, _, runtime = request.param.partition("/")
    if kind == "mock":
        mock = MockDriver()

        async def same() -> Driver:
            return mock

        made = Bench(mock, same, (await mock.fingerprint()).abilities | {"several"}, root)
    elif kind == "several":
        drivers: dict[Isolation, Driver] = {CONTAINER: _named("even"), GVISOR: _named("odd")}

        def driver_of(id: str) -> str | None:
            return ("even", "odd")[int(id[-8:], 16) % 2] if id.startswith("d") else None

        async def both() -> Driver:
            return Several(drivers, driver_of=driver_of)

        made = Bench(await both(), both, frozenset({"several"}), root)
    else:

        async def choose() -> Driver:
            if kind == "microvm":
                vmm = Qemu() if runtime == "qemu" else Firecracker(saves=root / "data" / "saves")
                place = {"run_dir": root / f"run-{runtime}", "data_dir": root / "data"}
                vms = MicrovmDriver(**place, vmm=vmm, groups=ControlGroups(layout()))
                found = await vms.fingerprint()
                if not found.works and runtime == "firecracker":
                    pytest.skip(found.reason)
                assert found.works, found.reason
                return vms
            directory = root / f"run-{runtime}"
            return await OciDriver.choose(run_dir=directory, wanted=runtime, timeout_s=30, quiet=Quiet(Silence(), 0.0))

        driver = await choose()
        found = await driver.fingerprint()
        made = Bench(driver, choose, found.abilities, root)
    yield made
    for id in made.made:
        await made.driver.destroy(id)
    assert await made.driver.known() == frozenset()
    left = traces() - before
    assert not left, "\n".join(sorted(left))


def _named(name: str) -> MockDriver:
    mock = MockDriver()
    mock.name = name
    return mock


@pytest.fixture
def programs(bench: Bench) -> Bench:
    """A driver that really runs programs. Others declare that they do not."""
    if "programs" not in bench.abilities:
        pytest.skip("this driver declares that it runs no programs")
    return bench


async def soon(awaitable: Any) -> Any:
    with suppress(ProcessLookupError):
        return await asyncio.wait_for(awaitable, 20)
