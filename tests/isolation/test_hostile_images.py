"""Images that were built to lead the agent, which is root of the host, out of the Machine's root (faults.md row 23)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caddisfly.model.errors import InvalidArgument
from caddisfly.model.machine import Machine
from tests.host.conftest import RunningAgent, Watcher
from tests.images.factories import TarFactory
from tests.isolation.conftest import CANARY

PWNED = base64.b64encode(b"pwned").decode()
UP = "../" * 12
Image = Callable[..., Any]


async def ended(watcher: Watcher, machine: Machine) -> Machine:
    """Started or failed: both are fine for a trap."""
    return await watcher.until(machine, lambda now: now.state in ("started", "failed"))


def reason(machine: Machine) -> str:
    event = machine.newest("exit")
    assert event is not None
    assert event.request is not None
    return str(event.request["exit_event"]["error"])


TRAPS = {
    "an absolute link to a directory": (TarFactory().symlink("etc/app", "/etc"), "/etc/app/caddis-canary"),
    "a relative link to a directory": (TarFactory().symlink("up", f"{UP}etc"), "/up/caddis-canary"),
    "a link to the file itself": (TarFactory().symlink("conf", f"{UP}etc/caddis-canary"), "/conf"),
    "a chain of links": (
        TarFactory().symlink("one", "two").symlink("two", "three").symlink("three", f"/{UP}etc"),
        "/one/caddis-canary",
    ),
    "a link through /proc": (TarFactory().symlink("magic", "/proc/1/root/etc"), "/magic/caddis-canary"),
    "a link through a descriptor": (TarFactory().symlink("magic", "/proc/self/cwd/etc"), "/magic/caddis-canary"),
    "a link to itself": (TarFactory().symlink("loop", "loop"), "/loop/caddis-canary"),
    "a pipe": (TarFactory().fifo("pipe"), "/pipe"),
}


@pytest.fixture(scope="module")
def layers() -> dict[str, bytes]:
    return {name: factory.tar() for name, (factory, _) in TRAPS.items()}


async def test_files_of_the_config_stay_inside(
    agent: RunningAgent, watcher: Watcher, canary: Path, image: Image, layers: dict[str, bytes]
) -> None:
    made = {}
    for number, (name, (_, path)) in enumerate(TRAPS.items()):
        trap = await image(f"trap:{number}", layers[name])
        made[name] = await agent.create(image=trap, files=[{"guest_path": path, "raw_value": PWNED}])
    for name, machine in made.items():
        found = await ended(watcher, machine)
        if found.state == "started":
            inside = await agent.shell(found, f"cat {CANARY} {TRAPS[name][1]} 2>/dev/null")
            assert "pwned" in inside.stdout, f"{name}: it was written inside"
        else:
            assert "cannot write config.files" in reason(found), name


async def test_paths_of_files_climb_nowhere(agent: RunningAgent, canary: Path) -> None:
    for path in (f"/d/{UP}etc/caddis-canary", "etc/caddis-canary", "//../etc/caddis-canary", "/.."):
        with pytest.raises(InvalidArgument, match="must be an absolute file path"):
            await agent.create(files=[{"guest_path": path, "raw_value": PWNED}])


async def test_accounts_are_those_of_the_image(
    agent: RunningAgent, watcher: Watcher, canary: Path, image: Image
) -> None:
    """An /etc/passwd that leads out names nobody, and one that never ends is not waited for."""
    links = {
        "link": TarFactory().symlink("etc/passwd", f"{UP}etc/caddis-canary"),
        "absolute": TarFactory().symlink("etc/passwd", str(CANARY)),
        "pipe": TarFactory().fifo("etc/passwd"),
        "directory": TarFactory().directory("etc/passwd"),
    }
    for name, factory in links.items():
        trap = await image(f"accounts-{name}:1", factory.tar(), User="spy")
        found = await ended(watcher, await agent.create(image=trap))
        assert found.state == "failed", name
        assert "user 'spy' does not exist in the image" in reason(found), name


@pytest.mark.parametrize("user", ["4294967295", "99999999999", "-1", "0:nogroup:x", "nobody:nosuchgroup"])
async def test_odd_users_are_refused_or_harmless(
    agent: RunningAgent, watcher: Watcher, image: Image, user: str
) -> None:
    trap = await image("odd:1", User=user)
    found = await ended(watcher, await agent.create(image=trap))
    assert found.state == "failed"
    assert "user" in reason(found) or "group" in reason(found)


async def test_files_that_the_host_lends_are_mounted_inside(
    agent: RunningAgent, watcher: Watcher, canary: Path, image: Image
) -> None:
    """Where the platform mounts something, the image may have put links to elsewhere."""
    layer = (
        TarFactory()
        .symlink("etc/hosts", f"{UP}etc/caddis-canary")
        .symlink("etc/hostname", str(CANARY))
        .symlink(".fly", f"{UP}etc")
        .symlink("fly", f"{UP}etc")
    )
    found = await ended(watcher, await agent.create(image=await image("mounts:1", layer.tar())))
    mounted = Path("/proc/self/mountinfo").read_text()
    assert str(CANARY) not in mounted
    assert not Path("/etc/init").exists()
    if found.state == "started":
        assert "untouched" not in (await agent.shell(found, f"cat {CANARY}")).stdout


@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
async def test_a_link_in_place_of_a_kernel_file_system_unmasks_nothing(
    agent: RunningAgent, watcher: Watcher, image: Image, place: str
) -> None:
    """A /proc that is mounted elsewhere would leave masks and read-only paths behind."""
    layer = TarFactory().directory("elsewhere").symlink(place, "/elsewhere")
    found = await ended(watcher, await agent.create(image=await image(f"{place}:1", layer.tar())))
    if found.state == "failed":
        assert reason(found)
        return
    for line in (
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /elsewhere/sysrq-trigger",
        "echo 1 > /elsewhere/sys/kernel/panic",
        "head -c 1 /elsewhere/kcore | grep -q .",
        "echo 1 > /elsewhere/kernel/mm/ksm/run",
        "ls /elsewhere/fs/cgroup /sys/fs/cgroup | grep -v : | grep -q .",
        "ls /elsewhere/firmware | grep -q .",
    ):
        assert (await agent.shell(found, line)).exit_code != 0, line


@pytest.mark.parametrize("number", [3, 5, 7, 8, 9])
async def test_a_working_directory_leads_not_through_open_descriptors(
    agent: RunningAgent, watcher: Watcher, canary: Path, image: Image, number: int
) -> None:
    """CVE-2024-21626: a runtime that leaves a directory of the host open when it changes into the Machine's."""
    trap = await image(f"cwd:{number}", WorkingDir=f"/proc/self/fd/{number}")
    found = await ended(watcher, await agent.create(image=trap))
    if found.state == "started":
        walked = await agent.shell(found, f"cat {UP}{CANARY.relative_to('/')} ./{UP}etc/caddis-canary")
        assert "untouched" not in walked.stdout


async def test_what_an_image_says_of_itself_is_only_text(agent: RunningAgent, watcher: Watcher, image: Image) -> None:
    """Names and values from an image go into JSON, files and environments; none may become more than itself."""
    odd = await image("odd-words:1", Env=["A=$(touch /x)\n{}", "=x", "B"], Labels={"a": '"},{"', "\n": "\0"})
    found = await watcher.until(await agent.create(image=odd), "started")
    assert (await agent.shell(found, 'test -e /x && echo bad; printf %s "$A"')).stdout == "$(touch /x)\n{}"
