"""What a guest is made of, without booting one: its parts of the distribution, and what it is told."""

from __future__ import annotations

import errno
import platform
import struct
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from caddisfly.host.drivers.driver import Bind, Drives, Limits, Sandbox
from caddisfly.host.drivers.microvm import config, initramfs, instructions, modules, status, tools, witness
from caddisfly.host.drivers.microvm.cpio import Archive
from caddisfly.host.drivers.microvm.doorway import Authorities
from caddisfly.host.drivers.microvm.kernel import Kernel, startable
from caddisfly.model.errors import FailedPrecondition
from caddisfly.model.program import GuestFile

ODD = 'it\'s "$HOME" `id` \\ \n * end'


def sandbox(**changes: object) -> Sandbox:
    made = Sandbox(
        id="d" * 14 + "-00000001",
        root=Path("/nowhere"),
        argv=("/bin/sh", "-c", ODD),
        env=("PATH=/bin", f"ODD={ODD}", "-u=no option"),
        cwd="/work dir",
        uid=1000,
        gid=1001,
        gids=(),
        hostname="tested",
        netns=None,
        binds=(),
        limits=Limits(cores=1.0, weight=100, memory_mb=128, pids=77),
        log=Path("/nowhere/log"),
        drives=Drives(image=Path("/nowhere/image"), scratch=Path("/nowhere/scratch")),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def told(path: Path, made: Sandbox, addresses: config.Addresses | None = None) -> dict[str, bytes]:
    """What stands on the config drive."""
    config.write(path, made, addresses=addresses, doorway={"authority": b"key"})
    with tarfile.open(path) as tar:
        return {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry)) is not None}


def test_the_archive_is_what_the_kernel_and_others_read(tmp_path: Path) -> None:
    archive = Archive()
    archive.directory("bin")
    archive.file("bin/tool", b"odd", 0o755)
    archive.link("bin/other", "tool")
    archive.character_device("console", 5, 1)
    packed = archive.packed()
    assert len(packed) % 4 == 0
    assert packed == archive.packed(), "the same input gives the same bytes"
    done = subprocess.run(
        ["busybox", "cpio", "-idm"], input=packed, cwd=tmp_path, capture_output=True, check=False, timeout=10
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bin" / "other").read_bytes() == b"odd"
    assert (tmp_path / "bin" / "tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "console").is_char_device()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="another form of kernel")
def test_the_kernel_that_is_started_has_an_entry_for_it() -> None:
    elf = startable(Kernel.find().image.read_bytes())
    assert elf[:4] == b"\x7fELF"
    note = struct.pack(
        "<III4s", 4, 8, 18, b"Xen\0"
    )  # XEN_ELFNOTE_PHYS32_ENTRY, by which a VMM starts it without a BIOS
    alternative = struct.pack("<III4s", 4, 4, 18, b"Xen\0")
    assert note in elf or alternative in elf


@pytest.mark.parametrize("image", [b"", b"MZ" + bytes(2000), bytes(510) + b"\x55\xaaHdrS" + bytes(2000)])
def test_what_is_no_kernel_is_refused_in_words(image: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="the kernel for microVMs"):
        startable(image)


def test_the_newest_kernel_that_has_its_modules_is_taken(tmp_path: Path) -> None:
    for release in ("6.1.0-9-cloud", "6.1.0-56-cloud", "6.1.0-57-cloud"):
        (tmp_path / "boot").mkdir(exist_ok=True)
        (tmp_path / "boot" / f"vmlinuz-{release}").touch()
        if "57" not in release:
            (tmp_path / "lib" / "modules" / release).mkdir(parents=True)
    assert Kernel.find(tmp_path).release == "6.1.0-56-cloud"
    with pytest.raises(FailedPrecondition, match="no kernel"):
        Kernel.find(tmp_path / "boot")


def test_a_module_comes_after_what_it_needs_and_without_its_signature(tmp_path: Path) -> None:
    signature = b"signed" + bytes(8) + struct.pack(">I", 6) + b"~Module signature appended~\n"
    needs = {"a": "b,c-d", "b": "c_d", "c-d": "", "e": "missing"}
    for name, others in needs.items():
        (tmp_path / f"{name}.ko").write_bytes(b"\x7fELF\0depends=" + others.encode() + b"\0end" + signature)
    (tmp_path / "modules.builtin").write_text("kernel/drivers/built-in.ko\n")
    found = modules.in_order(tmp_path, ("a", "e", "built_in"))
    assert [name for name, _ in found] == ["c_d", "b", "a", "e"]
    assert all(content.endswith(b"\0end") for _, content in found)
    with pytest.raises(FailedPrecondition, match="lacks the module absent"):
        modules.in_order(tmp_path, ("absent",))


def test_the_real_kernel_has_every_module_a_guest_needs() -> None:
    kernel = Kernel.find()
    loaded = modules.in_order(kernel.modules)
    names = [name for name, _ in loaded]
    assert names.index("virtio_ring") < names.index("virtio_blk")
    assert {"erofs", "overlay"} <= set(names)
    assert not set(modules.FINDERS) & set(names), "what finds devices comes last"
    assert [name for name, _ in modules.beside(kernel.modules, loaded, modules.FINDERS)] == list(modules.FINDERS)


def test_a_busybox_that_needs_libraries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="busybox does not work"):
        initramfs.build(Kernel.find(), busybox=tmp_path / "none")
    dynamic = tmp_path / "busybox"
    dynamic.write_text("#!/bin/sh\n# as if /lib64/ld-linux.so loaded it\necho sh\n")
    dynamic.chmod(0o755)
    with pytest.raises(FailedPrecondition, match="needs libraries"):
        initramfs.build(Kernel.find(), busybox=dynamic)


def test_a_tool_that_is_nowhere_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tools.PROGRAMS, "nosuchtool", "nosuch-package")
    with pytest.raises(FailedPrecondition) as refused:
        tools.find()
    assert "nosuch-package" in refused.value.why


def test_our_part_of_the_guest_is_a_script_that_its_shell_can_read(tmp_path: Path) -> None:
    for name, program in initramfs.programs().items():
        if program.startswith(b"#!"):
            path = tmp_path / name
            path.write_bytes(program)
            done = subprocess.run(["busybox", "sh", "-n", path], capture_output=True, check=False, timeout=10)
            assert (done.returncode, done.stderr) == (0, b""), name


def test_our_own_instructions_make_the_kernel_draw_new_keys(tmp_path: Path) -> None:
    program = tmp_path / "reseed"
    program.write_bytes(instructions.programs()["reseed"])
    program.chmod(0o755)
    with Path("/dev/urandom").open() as source:
        assert subprocess.run([program], stdin=source, check=False, timeout=10).returncode == 0
    refused = subprocess.run([program], stdin=subprocess.DEVNULL, check=False, timeout=10)
    assert refused.returncode == errno.ENOTTY, "only the source of random numbers knows what is meant"


@pytest.mark.parametrize(("architecture", "machine"), [("x86_64", "X86-64"), ("aarch64", "AArch64")])
def test_they_are_programs_of_their_architecture(tmp_path: Path, architecture: str, machine: str) -> None:
    for name, program in instructions.programs(architecture).items():
        (tmp_path / name).write_bytes(program)
        read = subprocess.run(
            ["readelf", "-hl", tmp_path / name], capture_output=True, check=True, text=True, timeout=10
        )
        assert machine in read.stdout
        assert read.stderr == ""


def test_no_value_is_more_than_a_value(tmp_path: Path) -> None:
    addresses = config.Addresses(ipv4="10.0.0.2", ipv6="fdaa::2", gateway4="10.0.0.1", gateway6="fe80::1", mtu=1420)
    files = told(tmp_path / "config", sandbox(hostname=ODD), addresses)
    (tmp_path / "settings").write_bytes(files["settings"])
    line = '. "$0"; printf "%s|%s|%s|%s" "$HOSTNAME" "$PIDS" "$MTU" "$KEPT"'
    said = subprocess.run(
        ["busybox", "sh", "-c", line, tmp_path / "settings"], capture_output=True, check=True, timeout=10
    ).stdout
    assert said.decode() == f"{ODD}|77|1420|"


def test_a_command_becomes_the_images_user_and_meets_its_words_unchanged(tmp_path: Path) -> None:
    enter = told(tmp_path / "config", sandbox(gids=(5, 6)))["enter"].decode()
    shown = enter.replace("exec ", "printf '<%s>' ", 1)
    assert shown != enter
    program = subprocess.run(
        ["busybox", "sh", "-c", shown], capture_output=True, check=True, timeout=10
    ).stdout.decode()
    assert f"<--><PATH=/bin><ODD={ODD}><-u=no option>" in program
    assert program.endswith(f"<--></bin/sh><-c><{ODD}>")
    assert "<--regid><1001><--groups><5,6>" in program
    command = subprocess.run(
        ["busybox", "sh", "-c", shown, "enter", "echo", ODD], capture_output=True, check=True, timeout=10
    ).stdout.decode()
    assert command.endswith(f"<echo><{ODD}>")
    assert "</bin/sh>" not in command


def test_files_and_what_is_shown_are_carried_and_a_directory_of_the_host_is_not(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    (tmp_path / "door").mkdir()
    files = told(
        tmp_path / "config",
        sandbox(
            binds=(
                Bind(source=tmp_path / "door", target="/.fly"),
                Bind(source=tmp_path / "hosts", target="/etc/hosts"),
            ),
            files=(GuestFile("/etc/it's here", b"\0\xff", 0o4755),),
        ),
    )
    assert files["shown/0"] == b"127.0.0.1 localhost\n"
    assert files["files/0"] == b"\0\xff"
    place = files["place"].decode()
    assert "/.fly" not in place
    assert b"SOCKET=''" in files["settings"], "there is none in it"
    assert "chmod 4755" in place
    assert subprocess.run(["busybox", "sh", "-nc", place], check=False, timeout=10).returncode == 0


def test_the_config_drive_is_whole_sectors_and_roots_alone(tmp_path: Path) -> None:
    told(tmp_path / "config", sandbox())
    found = (tmp_path / "config").stat()
    assert found.st_size % 512 == 0
    assert found.st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"running", status.Status(running=True)),
        (b"exited 42", status.Status(exit_code=42)),
        (b"exited 137 oom", status.Status(exit_code=137, oom=True)),
        (b"exited 999", status.Status(exit_code=255)),
        (b"failed no root", status.Status(failure="no root")),
        (b"exited -1", status.Status()),
        (b"exited 1; rm", status.Status()),
        (b"exited 0042", status.Status()),
        (b"failed \x1b[31m", status.Status()),
        (b"\xff" * 511, status.Status()),
        (b"", status.Status()),
    ],
)
def test_of_the_guests_word_only_what_makes_sense_is_taken(
    tmp_path: Path, line: bytes, expected: status.Status
) -> None:
    path = tmp_path / "status"
    assert status.read(path) == status.Status()
    status.prepare(path)
    assert status.read(path) == status.Status()
    with path.open("r+b") as file:
        file.write(line.ljust(511) + b"\n")
    assert status.read(path) == expected


def test_a_panic_is_found_in_whatever_pieces_it_came() -> None:
    stream = b"2026-01-01T00:00:00+00:00 stderr"
    pieces = [b"[ 1.0] Ker", b"nel pan", b"ic - not syncing: Fatal ", b"exception"]
    lines = [stream + b" P " + piece for piece in pieces]
    lines.insert(2, b"2026-01-01T00:00:00+00:00 stdout F between")
    log = b"\n".join((b"cut off", *lines, stream + b" F ", stream + b" F more", b""))
    assert witness.panic_in(log) == "kernel panic: Fatal exception"
    assert witness.panic_in(log.replace(b"Ker", b"")) == ""
    assert witness.panic_in(b"\xff\n \n  \n") == ""


def test_an_organization_has_one_authority_and_it_is_not_anothers(tmp_path: Path) -> None:
    first, second = Authorities(tmp_path), Authorities(tmp_path)
    acme, again, other = first.files("acme"), second.files("acme"), first.files("other")
    assert acme["authority"] == again["authority"] != other["authority"]
    assert acme["host_key"] != again["host_key"]
    assert b"PRIVATE" not in acme["authority"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    _, certificate = second.pass_for("acme")
    assert certificate.principals == ["root"]
    assert certificate.signing_key == asyncssh.import_public_key(acme["authority"])
    words = {
        first.word_of("acme", "1"),
        second.word_of("acme", "1"),
        first.word_of("acme", "2"),
        first.word_of("o", "1"),
    }
    assert len(words) == 3, "each guest has its own, and it stays"
