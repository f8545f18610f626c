"""What a guest says of its processes: the truth of a real kernel is read as the host's own, and lies do no harm."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from caddisfly.host import processes as own
from caddisfly.host.drivers.microvm import processes

TOKEN = "0123456789abcdef"
SCRIPT = (files("caddisfly.host.drivers.microvm") / "guest" / "ps").read_text()
ODD = f"==> /run/{TOKEN[:-1]}/1/stat <==\n'it' (is) -> \t\xff"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """A process with an odd command, an odd directory and a socket that waits."""
    place = tmp_path / "odd 'place'\n' -> "
    place.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        waiting.set_inheritable(True)
        with subprocess.Popen(
            ["busybox", "sh", "-c", "read line", ODD.encode("latin-1")], cwd=place, stdin=subprocess.PIPE,
            pass_fds=[waiting.fileno()],
        ) as process:  # fmt: skip
            yield process.pid
            process.kill()


def said(tmp_path: Path, *pids: int) -> bytes:
    """What the script prints on this computer, of these in place of a Machine's."""
    group = tmp_path / "group"
    (group / "main").mkdir(parents=True)
    (group / "main" / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    script = SCRIPT.replace("/sys/fs/cgroup/app", str(group)).replace("/run/", f"{tmp_path}/")
    done = subprocess.run(
        ["busybox", "sh", "-s", TOKEN], input=script.encode(), capture_output=True, check=False, timeout=20
    )
    assert not (tmp_path / TOKEN).is_symlink()
    return done.stdout.replace(bytes(tmp_path / TOKEN), b"/run/" + TOKEN.encode())


def test_a_guest_that_is_honest_is_read_as_the_host_itself(tmp_path: Path, server: int) -> None:
    (expected,) = own.look([server])
    (found,) = processes.read(said(tmp_path, server, 999_999_999), TOKEN)
    assert found.to_wire() | {"rtime": 0} == expected.to_wire() | {"rtime": 0}
    assert ODD.encode("latin-1").decode(errors="replace") in found.command
    assert len(found.listens) == 1
    assert found.age_ms >= expected.age_ms


def test_a_directory_is_named_as_inside(tmp_path: Path, server: int) -> None:
    answer = said(tmp_path, server)
    (found,) = processes.read(answer.replace(b"' -> '/", b"' -> '/newroot/"), TOKEN)
    assert found.directory == own.look([server])[0].directory
    at = answer.index(b"/cwd' -> '") + len(b"/cwd' -> '")
    (found,) = processes.read(answer[:at] + b"/newroot'\n", TOKEN)
    assert found.directory == "/"


def _heading(name: str) -> bytes:
    return f"\n==> /run/{TOKEN}/{name} <==\n".encode()


def test_lies_have_bounds(tmp_path: Path, server: int) -> None:
    honest = said(tmp_path, server)
    (process,) = processes.read(honest, TOKEN)
    stat = _heading("7/stat") + b"7 (x) R " + b" ".join([b"9" * 4000] * 50)
    lies = [
        b"",
        b"\xff" * 5000,
        _heading("uptime") + b"nan" + stat,
        _heading("uptime") + b"1e999 1" + stat,
        _heading("uptime") + stat,
        stat,
        _heading("uptime") + b"1 1" + _heading("7/stat") + b"7 (x) R",
        _heading("uptime") + b"1 1" + _heading("7/stat") + b"7 (x) R" + b" \xff" * 50,
        _heading("uptime") + b"1 1" + stat.replace(b"9" * 4000, b"9" * 5000),
    ]
    for lie in lies:
        assert processes.read(lie, TOKEN) == []
    most = processes.read(_heading("uptime") + b"1e300 1" + stat, TOKEN)
    assert all(value < 1 << 60 for one in most for value in one.to_wire().values() if isinstance(value, int))
    assert [one.pid for one in most] == [7]
    for cut in range(0, len(honest), 97):
        assert len(processes.read(honest[:cut], TOKEN)) <= 1
    for socket_line in (b"0: zz", b"0: 00:1 0 0A " + b"x " * 9, b"0: 0100007F:99999999999 0 0A 0 0 0 0 0 1"):
        with_table = honest.replace(b"/net/tcp <==\n", b"/net/tcp <==\nheader\n" + socket_line + b"\n", 1)
        assert processes.read(with_table, TOKEN)[0].pid == process.pid
