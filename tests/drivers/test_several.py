"""Several drivers on one host, and which of them a Machine gets. The contract itself is in test_conformance.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from caddisfly.host.drivers.driver import Driver, Fingerprint, Limits, Pausable, Running, Sandbox, behind
from caddisfly.host.drivers.mock import MockDriver
from caddisfly.host.drivers.notes import FileNotes
from caddisfly.host.drivers.pods import Pods
from caddisfly.host.drivers.several import Several
from caddisfly.host.isolation import Choice, vmms, wanted
from caddisfly.host.settings import HostSettings
from caddisfly.model.errors import Aborted, FailedPrecondition
from caddisfly.model.isolation import CONTAINER, GVISOR, MICROVM
from tests.journal.test_journal import a_machine

ONE, OTHER, NOBODYS = (f"{letter * 14}-00000001" for letter in "abc")

NewSandbox = Callable[[str], Sandbox]


class Named(MockDriver):
    """A driver that may turn out not to work."""

    def __init__(self, name: str, *, works: bool = True) -> None:
        super().__init__()
        self.name, self.works, self.tried = name, works, 0

    async def fingerprint(self) -> Fingerprint:
        self.tried += 1
        return Fingerprint(works=self.works, version="1", reason="" if self.works else "no such thing here")


class Guests(Named):
    takes_drives = True


class Pausing(Named):
    async def pause(self, id: str) -> None: ...

    async def unpause(self, id: str) -> None: ...


@pytest.fixture
def a_sandbox(tmp_path: Path) -> NewSandbox:
    def new(id: str) -> Sandbox:
        return Sandbox(
            id=id,
            root=tmp_path,
            argv=("/bin/app",),
            env=(),
            cwd="/",
            uid=0,
            gid=0,
            gids=(),
            hostname="one",
            netns=None,
            binds=(),
            limits=Limits(cores=1.0, weight=100, memory_mb=64, pids=64),
            log=tmp_path / f"{id}.log",
        )

    return new


@pytest.fixture
def crun() -> Named:
    return Pausing("oci/crun")


@pytest.fixture
def runsc() -> Named:
    return Named("oci/runsc")


@pytest.fixture
def several(crun: Named, runsc: Named) -> Several:
    names = {ONE: "oci/crun", OTHER: "oci/runsc"}
    return Several({CONTAINER: crun, GVISOR: runsc}, driver_of=names.get)


async def test_a_sandbox_is_where_its_machine_was_started(
    several: Several, crun: Named, runsc: Named, a_sandbox: NewSandbox
) -> None:
    for id in (ONE, OTHER):
        await several.start(a_sandbox(id))
    assert (await crun.known(), await runsc.known()) == ({ONE}, {OTHER})
    assert await several.known() == {ONE, OTHER}
    assert isinstance(await several.recover(OTHER), Running)
    await several.kill(OTHER)
    assert (await several.wait(OTHER)).exit_code == 137
    await several.destroy(OTHER)
    assert await several.known() == {ONE}


async def test_one_of_several_programs_is_where_the_others_are(
    several: Several, runsc: Named, a_sandbox: NewSandbox
) -> None:
    await several.start(a_sandbox(f"{OTHER}.1.1"))
    assert await runsc.known() == {f"{OTHER}.1.1"}


async def test_what_is_nobodys_is_swept_wherever_it_is(several: Several, runsc: Named, a_sandbox: NewSandbox) -> None:
    await runsc.start(a_sandbox(NOBODYS))
    await several.destroy(NOBODYS)
    assert not await several.known()


async def test_abilities_are_those_of_the_driver_that_has_the_sandbox(several: Several, tmp_path: Path) -> None:
    pods = Pods(several, notes=FileNotes(tmp_path))
    assert isinstance(behind(pods, ONE), Pausable)
    assert not isinstance(behind(pods, OTHER), Pausable)


async def test_a_driver_that_is_gone_is_named(crun: Named) -> None:
    several = Several({CONTAINER: crun}, driver_of={OTHER: "oci/runsc"}.get)
    with pytest.raises(FailedPrecondition, match="this host has no oci/runsc any more"):
        await several.recover(OTHER)


async def test_a_record_from_before_there_were_several_is_of_the_preferred_one(
    crun: Named, runsc: Named, a_sandbox: NewSandbox
) -> None:
    several = Several({CONTAINER: crun, GVISOR: runsc}, driver_of={ONE: ""}.get)
    await crun.start(a_sandbox(ONE))
    assert isinstance(await several.recover(ONE), Running)
    fresh = Choice(several.offers).incarnate(replace(a_machine(), isolation="", driver=""))
    assert (fresh.isolation, fresh.driver) == (CONTAINER, "oci/crun")


async def test_a_record_from_before_there_were_microvms_is_of_none(crun: Named, a_sandbox: NewSandbox) -> None:
    """A host that prefers microVMs since its upgrade would take such a Machine for lost, and run it twice."""
    await crun.start(a_sandbox(ONE))
    for several in (
        Several({MICROVM: Guests("microvm/qemu"), CONTAINER: crun}, driver_of={ONE: ""}.get),
        Several({MICROVM: Guests("microvm/qemu")}, driver_of={ONE: ""}.get, others=[crun]),
    ):
        assert isinstance(await several.recover(ONE), Running)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (MICROVM, CONTAINER, GVISOR)),
        ({"runtime": "runc"}, (MICROVM, CONTAINER, GVISOR)),
        ({"runtime": "runsc"}, (GVISOR,)),
        ({"isolation": "container"}, (CONTAINER,)),
        ({"isolation": "microvm", "runtime": "crun"}, (MICROVM,)),
    ],
)
def test_what_a_host_is_to_offer(settings: dict[str, str], expected: tuple[str, ...]) -> None:
    assert wanted(HostSettings.model_validate(settings)) == expected


@pytest.mark.parametrize(
    ("settings", "kvm", "expected"),
    [
        ({}, True, ["firecracker", "kvm"]),
        ({}, False, []),
        ({"isolation": "microvm"}, False, ["tcg"]),
        ({"isolation": "microvm", "vmm": "qemu"}, True, ["kvm", "tcg"]),
        ({"isolation": "microvm", "vmm": "firecracker"}, True, ["firecracker"]),
        ({"isolation": "microvm", "vmm": "firecracker"}, False, []),
    ],
)
def test_microvms_are_emulated_only_where_there_is_to_be_nothing_else(
    settings: dict[str, str], kvm: bool, expected: list[str]
) -> None:
    found = vmms(HostSettings.model_validate(settings), kvm=kvm)
    assert [vmm.build.split()[-2] if vmm.name == "qemu" else vmm.name for vmm in found] == expected


async def test_the_first_that_is_offered_and_allowed_is_taken(crun: Named, runsc: Named) -> None:
    choice = Choice({CONTAINER: crun, GVISOR: runsc})
    assert await choice.choose(()) == CONTAINER
    assert await choice.choose((GVISOR, CONTAINER)) == CONTAINER
    assert (crun.tried, runsc.tried) == (0, 0)
    for _ in range(2):
        assert await choice.choose((MICROVM, GVISOR)) == GVISOR
    assert runsc.tried == 1, "what works is tried once"
    assert choice.refusal((GVISOR,)) == ""
    assert choice.refusal((MICROVM,)) == ("the organization must have microvm, and the host has container and gvisor")
    with pytest.raises(Aborted, match="must have microvm"):
        await choice.choose((MICROVM,))


async def test_what_turns_out_not_to_work_is_not_taken(crun: Named) -> None:
    broken: Driver = Named("oci/runsc", works=False)
    choice = Choice({CONTAINER: crun, GVISOR: broken})
    with pytest.raises(Aborted, match="gvisor does not work on the host: no such thing here"):
        await choice.choose((GVISOR,))
    assert await choice.choose((GVISOR, CONTAINER)) == CONTAINER


async def test_a_machine_keeps_its_class_and_not_its_driver(crun: Named) -> None:
    machine = replace(a_machine(), isolation=CONTAINER, driver="oci/runc")
    assert Choice({CONTAINER: crun}).incarnate(machine).driver == "oci/crun"
    with pytest.raises(FailedPrecondition, match="cannot run as a container"):
        Choice({GVISOR: crun}).incarnate(machine)
