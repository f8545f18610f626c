"""Which isolation a Machine gets on this host, and by which driver.

The host's setting says what is offered, control says what the Machine's organization may have, and the first that is in
both is taken. A Machine keeps that class for life; the driver within it is chosen for each incarnation, so that it may
change from runc to crun, but never from gVisor to a container.

`auto` prefers a microVM where one starts at the speed of hardware, and else a container, which is what a host was
before there was a choice. gVisor is offered then, to those who must have it: it starts four times as slowly, and not
all that a Machine can do is done under it (docs/decisions). The preferred driver is tried when the agent starts. The
others are tried when somebody first wants them, since each try costs as much as a Machine.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from caddisfly.host.drivers.driver import Driver
from caddisfly.host.drivers.microvm.driver import MicrovmDriver
from caddisfly.host.drivers.microvm.firecracker import Firecracker
from caddisfly.host.drivers.microvm.qemu import Qemu
from caddisfly.host.drivers.microvm.vmm import Vmm
from caddisfly.host.drivers.oci.cgroups import ControlGroups, layout
from caddisfly.host.drivers.oci.checkpoint import Quiet
from caddisfly.host.drivers.oci.driver import OciDriver
from caddisfly.host.drivers.oci.runtime import NAMES
from caddisfly.host.drivers.several import DriverOf, Several
from caddisfly.host.settings import HostSettings
from caddisfly.model.errors import Aborted, FailedPrecondition, Problem
from caddisfly.model.isolation import CONTAINER, GVISOR, MICROVM, Isolation
from caddisfly.model.machine import Machine

log = logging.getLogger(__name__)

ONE_PROGRAM = "a microVM runs one program, and the machine has several"


def wanted(settings: HostSettings) -> tuple[Isolation, ...]:
    """What a host is to offer, the preferred first, as far as it turns out to work."""
    if settings.isolation != "auto":
        return (settings.isolation,)
    if settings.runtime == "runsc":  # what one wrote before there was a choice
        return (GVISOR,)
    return (MICROVM, CONTAINER, GVISOR)


async def open_drivers(settings: HostSettings, driver_of: DriverOf, *, quiet: Quiet) -> Several:
    """Those of new Machines, and those that older ones may still run on.

    `quiet` is what suspending takes. Raises `FailedPrecondition` when nothing that is wanted works.
    """
    offers: dict[Isolation, Driver] = {}
    reasons = []
    for isolation in wanted(settings):
        try:
            offers[isolation] = await _open(isolation, settings, prove=not offers, quiet=quiet)
        except FailedPrecondition as problem:
            reasons.append(f"{isolation}: {problem.why or problem}")
    if not offers:
        raise FailedPrecondition("no Machine can run on this host", why="; ".join(reasons), next="caddis doctor")
    log.info("isolation.offered", extra={"drivers": [driver.name for driver in offers.values()], "not": reasons})
    return Several(offers, driver_of=driver_of, others=await _left_by_others(settings, offers, quiet))


async def _open(isolation: Isolation, settings: HostSettings, *, prove: bool, quiet: Quiet) -> Driver:
    """Raises `FailedPrecondition`."""
    run_dir, timeout_s = settings.run_dir, settings.runtime_timeout_s
    if isolation == CONTAINER:
        return await OciDriver.choose(run_dir=run_dir, wanted=settings.runtime, timeout_s=timeout_s)
    if isolation == GVISOR and prove:
        return await OciDriver.choose(run_dir=run_dir, wanted="runsc", timeout_s=timeout_s, quiet=quiet)
    if isolation == GVISOR:
        return OciDriver.installed("runsc", run_dir=run_dir, timeout_s=timeout_s, quiet=quiet)
    return await _microvm(settings)


async def _microvm(settings: HostSettings) -> Driver:
    """Each is tried by booting a guest. Raises `FailedPrecondition`."""
    lacking = _no_kvm()
    reasons = [lacking] if lacking else []
    for vmm in vmms(settings, kvm=not lacking):
        driver = _microvms(settings, vmm)
        found = await driver.fingerprint()
        if found.works:
            return driver
        reasons.append(f"{vmm.name}: {found.reason}")
    raise FailedPrecondition("microVMs do not work here", why="; ".join(reasons), next="caddis doctor")


def vmms(settings: HostSettings, *, kvm: bool) -> list[Vmm]:
    """Those to try, in order. Only who asks for microVMs by name gets a processor that is emulated."""
    wanted: list[Vmm] = []
    if kvm and settings.vmm in ("auto", "firecracker"):
        wanted.append(_firecracker(settings))
    if kvm and settings.vmm in ("auto", "qemu"):
        wanted.append(Qemu(accelerator="kvm"))
    if settings.isolation == MICROVM and settings.vmm in ("auto", "qemu"):
        wanted.append(Qemu())
    return wanted


def _microvms(settings: HostSettings, vmm: Vmm) -> MicrovmDriver:
    return MicrovmDriver(
        run_dir=settings.run_dir,
        data_dir=settings.data_dir / "microvms",
        vmm=vmm,
        groups=ControlGroups(layout()),
    )


def _firecracker(settings: HostSettings) -> Firecracker:
    return Firecracker(saves=settings.data_dir / "microvms" / "saves")


def _no_kvm() -> str:
    """Why not even to try; empty when a guest should be booted to see."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "there is no /dev/kvm"
    if Path("/sys/module/kvm_pvm").exists():
        return "/dev/kvm is one of kvm_pvm, which boots few guests"
    return ""


async def _left_by_others(settings: HostSettings, offers: Mapping[Isolation, Driver], quiet: Quiet) -> list[Driver]:
    """A runtime that was ever used since the last reboot has a directory."""
    offered = {driver.name for driver in offers.values()}
    found: list[Driver] = []
    for name in NAMES:
        if f"oci/{name}" in offered or not (settings.run_dir / name).is_dir():
            continue
        try:
            timeout_s = settings.runtime_timeout_s
            found.append(OciDriver.installed(name, run_dir=settings.run_dir, timeout_s=timeout_s, quiet=quiet))
        except FailedPrecondition as problem:
            log.warning("isolation.gone", extra={"runtime": name, "reason": str(problem)})
    running = settings.run_dir / "microvms"
    if running.is_dir() and any(running.iterdir()):
        known: tuple[Vmm, ...] = (_firecracker(settings), Qemu())
        found += [_microvms(settings, vmm) for vmm in known if f"microvm/{vmm.name}" not in offered]
    return found


class Choice:
    """Made anew by each agent."""

    def __init__(self, offers: Mapping[Isolation, Driver] | None = None) -> None:
        """The preferred first, and that one is known to work. None: there is nothing to choose, nor to record."""
        self._offers = offers or {}
        self._works: set[Isolation] = set(list(self._offers)[:1])
        self._trying = asyncio.Lock()

    @property
    def offers(self) -> tuple[Isolation, ...]:
        return tuple(self._offers)

    @property
    def drivers(self) -> tuple[str, ...]:
        """Their names, in the same order."""
        return tuple(driver.name for driver in self._offers.values())

    def best(self, allowed: Collection[str]) -> Isolation | None:
        """What a Machine gets that may have only these; an empty collection allows everything."""
        return next((isolation for isolation in self._offers if not allowed or isolation in allowed), None)

    def refusal(self, allowed: Collection[str]) -> str:
        """Why such a Machine cannot be here, in words; empty when it can."""
        if not self._offers or self.best(allowed):
            return ""
        return f"the organization must have {' or '.join(allowed)}, and the host has {' and '.join(self._offers)}"

    async def choose(self, allowed: Collection[str], *, several: bool = False) -> str:
        """For a new Machine, which `several` programs keep from being a microVM.

        Raises `Aborted` when there is none, so that another host is asked.
        """
        reasons = [reason] if (reason := self.refusal(allowed)) else []
        for isolation in self._offers:
            if allowed and isolation not in allowed:
                continue
            if isolation == MICROVM and several:
                reasons.append(ONE_PROGRAM)
                continue
            try:
                await self._try(isolation)
            except Problem as problem:
                reasons.append(str(problem))
            else:
                return isolation
        if reasons:
            raise Aborted(f"could not place machine: {'; '.join(reasons)}", next="caddis doctor, on that host")
        return ""

    def incarnate(self, machine: Machine) -> Machine:
        """With the driver that its next incarnation is for. Raises `FailedPrecondition` when there is none."""
        if not self._offers:
            return machine
        isolation = machine.isolation or (CONTAINER if CONTAINER in self._offers else self.offers[0])
        driver = next((driver for name, driver in self._offers.items() if name == isolation), None)
        if driver is None:
            raise FailedPrecondition(
                f"the machine cannot run as a {isolation}",
                why=f"it was created as one, and its host now has only {' and '.join(self._offers)}",
                next="set [host] isolation back, or destroy it and create it anew",
            )
        return replace(machine, isolation=isolation, driver=driver.name)

    async def _try(self, isolation: Isolation) -> None:
        """Once for each that works."""
        async with self._trying:
            if isolation in self._works:
                return
            found = await self._offers[isolation].fingerprint()
            if not found.works:
                raise FailedPrecondition(f"{isolation} does not work on the host", why=found.reason)
            self._works.add(isolation)
