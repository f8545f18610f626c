"""Whether KVM boots a guest: a boot sector of 512 bytes that says a word on the serial port and turns itself off.

A `/dev/kvm` that opens proves nothing: nested hosts offer one on which every guest hangs at its first instruction.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from caddisfly.up.examination import Bench, Check, Ran
from caddisfly.up.settings import Settings

_TIMEOUT_S = 5.0
_EXIT = (0x10 << 1) | 1
"""What QEMU's isa-debug-exit makes of the 0x10 that the guest writes."""

_CODE = bytes.fromhex(
    "BAF803"  # mov dx, 0x3f8   first serial port
    "B04BEE"  # mov al, 'K'; out dx, al
    "B056EE"  # mov al, 'V'; out dx, al
    "B04DEE"  # mov al, 'M'; out dx, al
    "BAF400"  # mov dx, 0xf4    isa-debug-exit
    "B010EE"  # mov al, 0x10; out dx, al
    "F4EBFD"  # hlt; jmp back
)
BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"


def kvm(bench: Bench, _: Settings) -> list[Check]:
    device = Path("/dev/kvm")
    if not device.exists():
        return [_without("no /dev/kvm", "turn virtualization on in the firmware, or in the host of this guest")]
    if not os.access(device, os.R_OK | os.W_OK):
        return [_without("/dev/kvm does not open", "run as root")]
    if shutil.which("qemu-system-x86_64") is None:
        return [_without("/dev/kvm is there, untried", "install qemu-system-x86 to find out")]
    ran = boot(bench, "kvm")
    if booted(ran):
        return [Check(name="KVM", result="ok", found="boots a guest")]
    nested = ", kvm_pvm (a nested KVM that few guests like)" if Path("/sys/module/kvm_pvm").exists() else ""
    return [_without(f"/dev/kvm opens, but a guest does not boot: {ran.last_line}{nested}", "microVMs run slowly here")]


def boot(bench: Bench, accelerator: str, *, timeout_s: float = _TIMEOUT_S) -> Ran:
    """Boot the sector under `kvm` or `tcg`; the output is what it wrote to its serial port."""
    disk = bench.directory / "boot.img"
    disk.write_bytes(BOOT_SECTOR.ljust(1474560, b"\0"))
    machine = ["-machine", f"pc,accel={accelerator}", "-cpu", "host" if accelerator == "kvm" else "qemu64", "-m", "32"]
    quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-net", "none"]
    drive = ["-drive", f"file={disk},format=raw,if=floppy", "-boot", "a"]
    leave = ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    return bench.run(["qemu-system-x86_64", *machine, *quiet, *drive, *leave], timeout_s=timeout_s)


def booted(ran: Ran) -> bool:
    return ran.code == _EXIT and "KVM" in ran.output


def _without(found: str, next: str) -> Check:
    return Check(name="KVM", result="warn", found=found, next=f"{next}; containers need none")
