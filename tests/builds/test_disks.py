"""What stays of builds: caches, up to their limits, as long as their app is there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from caddisfly.bus import contract
from caddisfly.bus.contract import AppRecord
from caddisfly.bus.rpc import Caller, Method
from caddisfly.host.builds.build import Build, Step
from caddisfly.host.builds.builds import Builds
from caddisfly.host.builds.disks import Disks
from caddisfly.host.builds.log import BuildLog
from caddisfly.host.builds.sandbox import Order, Outcome
from caddisfly.host.builds.settings import BuildSettings
from caddisfly.host.images import kernel
from caddisfly.host.journal.journal import Journal
from caddisfly.host.settings import HostSettings
from caddisfly.model.errors import NotFound, Unavailable
from tests.builds.factories import a_build
from tests.conftest import eventually

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
MIB = 1 << 20


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    made = Disks(tmp_path / "builds", BuildSettings(disk_gb=1, caches_gb=1))
    made.open()
    yield made
    while kernel.is_mount_point(tmp_path / "builds" / "fs"):
        kernel.unmount(tmp_path / "builds" / "fs")


def work(disks: Disks, build: Build, target: Path, *, mb: int = 1, keep: bool = True) -> list[str]:
    """One build: writes so many MiB into its cache. What the build before had left there."""
    disks.mount(build, target)
    left = sorted(path.name for path in target.glob("of-*"))
    (target / f"of-{build.id}").write_bytes(os.urandom(MIB) * mb)
    disks.unmount(build, target, keep=keep)
    return left


def cache_of(tmp_path: Path, build: Build) -> Path:
    return tmp_path / "builds" / "fs" / "caches" / build.org_id / f"{build.app_id}.ext4"


def used_at(tmp_path: Path, build: Build, second: int) -> None:
    os.utime(cache_of(tmp_path, build), (second, second))


@needs_root
def test_caches_that_were_unused_for_longest_go_first(disks: Disks, tmp_path: Path) -> None:
    builds = [a_build(app=name) for name in ("first", "second", "third")]
    for build in builds:
        work(disks, build, tmp_path / "at", mb=300)
    for second, build in zip((20, 10, 30), builds, strict=True):
        used_at(tmp_path, build, second)
    assert disks.evict() == ["org1/id-of-second"]  # 900 MiB are more than three quarters of a GiB, 600 are not
    assert [cache_of(tmp_path, build).exists() for build in builds] == [True, False, True]
    assert disks.evict() == []


@needs_root
def test_a_build_makes_its_cache_the_youngest(disks: Disks, tmp_path: Path) -> None:
    builds = [a_build(app=name) for name in ("first", "second", "third")]
    for build in builds:
        work(disks, build, tmp_path / "at", mb=300)
    for second, build in zip((10, 20, 30), builds, strict=True):
        used_at(tmp_path, build, second)
    work(disks, a_build(app="first"), tmp_path / "at")
    assert disks.evict() == ["org1/id-of-second"]


@needs_root
def test_small_caches_all_stay(disks: Disks, tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        work(disks, a_build(app=name), tmp_path / "at", mb=30)
    assert disks.evict() == []


@needs_root
def test_a_forgotten_cache_is_not_found_again(disks: Disks, tmp_path: Path) -> None:
    first, second, other = a_build(), a_build(), a_build(app="other")
    work(disks, first, tmp_path / "at")
    work(disks, other, tmp_path / "at")
    assert work(disks, second, tmp_path / "at", keep=False) == [f"of-{first.id}"]
    disks.forget(first.org_id, first.app_id)
    disks.forget(first.org_id, first.app_id)  # once more is no error
    assert work(disks, a_build(), tmp_path / "at") == []
    assert work(disks, a_build(app="other"), tmp_path / "at") == [f"of-{other.id}"]


@needs_root
@pytest.mark.parametrize("name", ["", "..", "../org1/id-of-demo"])
def test_nothing_but_a_name_is_forgotten(disks: Disks, tmp_path: Path, name: str) -> None:
    build = a_build()
    work(disks, build, tmp_path / "at")
    with pytest.raises(OSError, match="cannot name a file"):
        disks.forget("org1", name)
    assert cache_of(tmp_path, build).exists()


class Bench:
    """Carries out builds that last until they are cancelled, and says what it was to forget."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.forgotten: list[tuple[str, str]] = []
        self.broken = False

    async def open(self) -> None: ...

    async def carry_out(self, order: Order, log: BuildLog, on_step: Callable[[Step], Awaitable[None]]) -> Outcome:
        self.running.add(order.build.id)
        try:
            await asyncio.Event().wait()
        finally:
            self.running.discard(order.build.id)
        return Outcome()

    def evict(self) -> list[str]:
        return []

    def forget(self, org_id: str, app_id: str) -> None:
        assert not self.running, "the cache is still in use"
        if self.broken:
            raise OSError("the disk is broken")
        self.forgotten.append((org_id, app_id))


class Control(Caller):
    """Knows which apps there are, unless it is away."""

    def __init__(self, *alive: str) -> None:
        self.alive, self.away = set(alive), False

    async def call(self, method: Method, request: BaseModel, *, timeout_s: float = 0) -> contract.RepositoryNeeds:  # type: ignore[override, type-arg]
        assert method.name == contract.ASK_NEEDS.name
        assert isinstance(request, contract.AskNeeds)
        if self.away:
            raise Unavailable("control is away")
        return contract.RepositoryNeeds(alive=request.app_id in self.alive)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = Journal(tmp_path / "journal.db")
    await opened.open()
    yield opened
    await opened.close()


async def nobody(subject: str, line: bytes) -> None: ...


async def begin(builds: Builds, id: str, *, app: str) -> contract.BuildCall:
    record = AppRecord(id=f"id-of-{app}", name=app, org_id="org1", org_slug="org1", network_id=7)
    await builds.begin(contract.StartBuild(build_id=id, app=record, context="sha256:" + "0" * 64))
    return contract.BuildCall(build_id=id, app_id=record.id)


async def state_of(builds: Builds, call: contract.BuildCall) -> str:
    return str((await builds.show(call)).build["state"])


async def test_what_was_kept_for_a_deleted_app_goes_once_it_is_known_to_be_gone(
    tmp_path: Path, journal: Journal
) -> None:
    bench, control = Bench(), Control("id-of-demo", "id-of-other")
    host = HostSettings(data_dir=tmp_path, run_dir=tmp_path / "run", host_id="1a2b3c4d")
    (tmp_path / "builds" / "logs").mkdir(parents=True)
    builds = Builds(host=host, settings=BuildSettings(), journal=journal, carrier=bench, publish=nobody)
    await builds.start(())
    running = await begin(builds, "0" * 13 + "1", app="demo")
    waiting = await begin(builds, "0" * 13 + "2", app="demo")
    other = await begin(builds, "0" * 13 + "3", app="other")
    await eventually(lambda: bench.running == {running.build_id})

    await builds.forget_deleted(control)
    assert (await state_of(builds, running), bench.forgotten) == ("running", [])

    control.alive.remove("id-of-demo")
    control.away = True
    await builds.forget_deleted(control)
    assert (await state_of(builds, running), bench.forgotten) == ("running", [])

    control.away, bench.broken = False, True
    await builds.cancel(other)  # or it would begin in the place of those
    await builds.forget_deleted(control)
    assert await state_of(builds, running) == "cancelled"  # known still, so that it is tried again
    assert bench.forgotten == []

    bench.broken = False
    await builds.forget_deleted(control)
    assert bench.forgotten == [("org1", "id-of-demo")]
    for call in (running, waiting):
        with pytest.raises(NotFound):
            await builds.show(call)
        assert not (tmp_path / "builds" / "logs" / f"{call.build_id}.log").exists()
    assert await state_of(builds, other) == "cancelled"
    await builds.forget_deleted(control)
    assert bench.forgotten == [("org1", "id-of-demo")]
    await builds.stop()
    await journal.close()
    again = Journal(tmp_path / "journal.db")
    assert [build.app_id for build in (await again.open()).builds] == ["id-of-other"]
    await again.close()
