"""What a build cannot do: keep a secret, reach the host, take more than its share, or stay when it is not wanted."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from caddisfly.bus import contract
from caddisfly.host.images.build import write_busybox_image
from caddisfly.host.journal.journal import SCHEMA_VERSION
from tests.builds.conftest import BuildingAgent, Service, another_app
from tests.builds.registry import PushRegistry
from tests.conftest import eventually
from tests.host.conftest import IMAGE


@pytest.fixture
def canary() -> Iterator[Path]:
    """A file that everybody on the host may read, and no build."""
    path = Path("/etc/caddis-canary")
    path.write_text("untouched\n")
    yield path
    assert path.read_text() == "untouched\n"
    path.unlink()


def buildah_follows_links() -> bool:
    said = subprocess.run(["buildah", "--version"], capture_output=True, check=True, text=True).stdout
    major, minor = (int(number) for number in said.split()[2].split(".")[:2])
    return (major, minor) < (1, 35)


def holds(path: Path, text: bytes) -> bool:
    """Whether a file, or any file below a directory, has this text in it."""
    found = subprocess.run(["grep", "-rqsaF", text, path], check=False).returncode
    return found == 0


def command_lines() -> str:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                found += [(entry / name).read_text(errors="replace") for name in ("cmdline", "environ")]
            except OSError:
                continue
    return "\n".join(found)


async def test_a_secret_is_seen_by_its_step_and_stays_nowhere(agent: BuildingAgent, registry: PushRegistry) -> None:
    secret = secrets.token_hex(20)
    dockerfile = (
        "FROM busybox\n"
        "RUN --mount=type=secret,id=token test $(wc -c < /run/secrets/token) = 40 && echo was there && sleep 2\n"
        "RUN test ! -e /run/secrets/token && echo is gone\n"
    )
    build = await agent.build(dockerfile, secrets={"token": secret}, no_cache=True)
    await agent.printed(build, "was there")
    assert secret not in command_lines(), "neither argument nor environment"
    build = await agent.ended(build)
    assert build["state"] == "done", build["failure"]
    assert "is gone" in await agent.output(build)
    assert build["secrets"] == ["token"]
    assert not any(secret.encode() in blob for blob in registry.blobs.values()), "layer, config"
    # The journal, the log, the cache's file system with all that was deleted in it, and what the agent says.
    assert not holds(agent.directory, secret.encode())


async def test_a_secret_of_a_step_that_fails_stays_nowhere_either(agent: BuildingAgent) -> None:
    secret = secrets.token_hex(20)
    dockerfile = "FROM busybox\nRUN --mount=type=secret,id=token cat /run/secrets/token | sha256sum; exit 1\n"
    build = await agent.ended(await agent.build(dockerfile, secrets={"token": secret}))
    assert build["state"] == "failed"
    assert not holds(agent.directory, secret.encode())


async def test_the_pass_is_not_shown_to_steps(agent: BuildingAgent) -> None:
    token = secrets.token_hex(20)
    look = f"cat /proc/*/environ /proc/*/cmdline | grep -c [{token[0]}]{token[1:]}; find / -xdev | grep -c auth.json"
    build = await agent.built(f"FROM busybox\nRUN {look}; true\n", token=token)
    output = await agent.output(build)
    assert token not in output
    assert [line for line in output.splitlines() if line.isdigit()] == ["0", "0"]
    assert not holds(agent.directory, token.encode())


async def test_steps_reach_what_is_forwarded_and_nothing_else(
    agent: BuildingAgent, private: Service, proxy: Service
) -> None:
    host = next(line.split()[1] for line in _addresses() if not line.split()[1].startswith("127."))
    gateway = "10.211.0.1"
    places = {
        "loopback": f"127.0.0.1 {private.port}",
        "bus": f"127.0.0.1 {agent.nats.port}",
        "gateway": f"{gateway} {agent.nats.port}",
        "address": f"{host} {agent.nats.port}",
        "metadata": "169.254.169.254 80",
    }
    tries = "; ".join(
        f"nc -w 1 {place} < /dev/null > /tmp/o 2>&1 && echo reached {name}" for name, place in places.items()
    )
    dockerfile = f"FROM busybox\nRUN nc -w 2 127.0.0.1 8081 < /dev/null; {tries}; true\n"
    build = await agent.built(dockerfile, no_cache=True)
    output = await agent.output(build)
    assert "index of packages" in output
    assert "reached" not in output
    assert private.seen == 0


def _addresses() -> list[str]:
    listed = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, check=True, text=True).stdout
    return [re.sub(r"^\d+: (\S+)\s+inet ([\d.]+).*", r"\1 \2", line) for line in listed.splitlines()]


async def test_steps_do_not_reach_a_machine_of_another_organization(agent: BuildingAgent, tmp_path: Path) -> None:
    write_busybox_image(tmp_path / "busybox")
    await agent.ask(contract.IMPORT_IMAGE, contract.ImportImage(path=str(tmp_path / "busybox"), name=IMAGE))
    serve = "while :; do echo of a machine | nc -l -p 8080; done"
    neighbour = await agent.create(serve, app=another_app("neighbour", network_id=99))
    sibling = await agent.create(serve)

    for machine in (neighbour, sibling):
        await agent.ask(contract.WAKE_MACHINE, contract.MachineCall(machine_id=machine.id))
    dockerfile = (
        "FROM busybox\n"
        f"RUN nc -w 1 {neighbour.ipv4} 8080 < /dev/null && echo reached; nc -w 1 {neighbour.private_ip} 8080 "
        f"< /dev/null && echo reached; for i in 1 2 3 4 5; do nc -w 1 {sibling.ipv4} 8080 < /dev/null && break; done\n"
    )
    output = await agent.output(await agent.built(dockerfile, no_cache=True))
    assert "reached" not in output
    assert "of a machine" in output, "a Machine of one's own network can be reached, so the others were refused"


async def test_steps_have_no_rights_on_the_host(agent: BuildingAgent) -> None:
    dockerfile = (
        "FROM busybox\n"
        "RUN cat /proc/self/uid_map; grep CapEff /proc/self/status; "
        "mknod /tmp/disk b 254 0 && echo made a device; mount -t tmpfs none /mnt && echo mounted; "
        "echo x > /proc/sys/kernel/core_pattern && echo wrote core_pattern; "
        "ls /sys/fs/cgroup/*/cgroup.procs; mkdir /sys/fs/cgroup/memory/mine && echo made a group; "
        "echo 1 > /sys/fs/cgroup/pids/cgroup.procs && echo moved; ip link add x type dummy && echo made a link; "
        "ls /proc | grep -c '^[0-9]'; true\n"
    )
    output = await agent.output(await agent.built(dockerfile, no_cache=True))
    assert "1000000000    1000000" in output, "root of nothing"
    for sign in ("made a", "mounted", "wrote", "moved"):
        assert sign not in output, output


async def test_a_link_in_the_context_leads_nowhere(agent: BuildingAgent) -> None:
    dockerfile = (
        "FROM busybox\nCOPY . /ctx\nRUN --mount=type=bind,source=.,target=/m ls -la /ctx /m; cat /m/link /ctx/link\n"
    )
    build = await agent.ended(await agent.build(dockerfile, links={"link": "/private/auth.json"}))
    assert build["state"] == "failed"
    assert '"auths"' not in await agent.output(build)


async def test_a_bind_of_a_link_leads_no_further_than_the_sandbox(agent: BuildingAgent, canary: Path) -> None:
    """buildah before 1.35 follows links of the context (CVE-2024-1753). What they lead to is nobody else's."""
    dockerfile = (
        "FROM busybox\n"
        "RUN --mount=type=bind,source=link,target=/m,rw "
        f"ls -la /m; cat /m{canary} /m/etc/shadow; ls /m{agent.directory} /m/proc/1/root/home; "
        "echo x > /m/usr/bin/caddis-was-here; echo x > /m/etc/caddis-was-here; true\n"
    )
    build = await agent.built(dockerfile, links={"link": "/"}, no_cache=True)
    output = await agent.output(build)
    assert "untouched" not in output
    assert "root:" not in output
    assert "agent.log" not in output
    assert not list(Path("/usr/bin").glob("caddis-was-here"))


async def test_what_a_build_leaves_on_its_disk_is_not_followed_by_the_agent(agent: BuildingAgent) -> None:
    # Through the same hole: names that the agent uses become links to the host.
    hostile = (
        "FROM busybox\nRUN --mount=type=bind,source=link,target=/m,rw rm -rf /m/tmp /m/context; "
        "ln -s /etc /m/context; ln -s / /m/tmp; ls -la /m; true\n"
    )
    before = os.stat("/etc"), sorted(os.listdir("/etc"))
    build = await agent.ended(await agent.build(hostile, links={"link": "/build"}, no_cache=True))
    assert build["state"] in ("done", "failed")
    if buildah_follows_links():
        assert "context -> /etc" in await agent.output(build), "or this test shows nothing"
    again = await agent.built("FROM busybox\nCOPY a.txt /\nRUN true\n", no_cache=True)
    assert again["state"] == "done"
    after = os.stat("/etc"), sorted(os.listdir("/etc"))
    assert (after[0].st_uid, after[0].st_mtime_ns, after[1]) == (before[0].st_uid, before[0].st_mtime_ns, before[1])


async def test_what_buildah_reports_may_be_a_link_and_is_not_followed(agent: BuildingAgent, canary: Path) -> None:
    hostile = (
        "FROM busybox\nRUN --mount=type=bind,source=link,target=/m,rw "
        f"rm -f /m/phase /m/digest; ln -s {canary} /m/digest; ln -s {canary} /m/phase; true\n"
    )
    build = await agent.ended(await agent.build(hostile, links={"link": "/private"}, no_cache=True))
    assert "untouched" not in str(build) + await agent.output(build)


async def test_a_fork_bomb_ends_its_own_build(agent: BuildingAgent) -> None:
    build = await agent.ended(await agent.build("FROM busybox\nRUN f() { f | f & f; }; f; sleep 1; exit 1\n"))
    assert build["state"] == "failed"
    assert (await agent.built("FROM busybox\nRUN true\n"))["state"] == "done"


async def test_a_step_that_eats_memory_is_killed_and_told_why(agent: BuildingAgent) -> None:
    build = await agent.ended(await agent.build("FROM busybox\nRUN tail /dev/zero\n"))
    assert build["state"] == "failed"
    assert build["step"]["exit_code"] == 137
    assert "memory" in build["failure"]["next"]


async def test_a_full_disk_stops_the_build_and_is_free_again(agent: BuildingAgent) -> None:
    first = "FROM busybox\nRUN echo made before the disk was full\n"
    await agent.built(first)
    # What was deleted a moment ago is given back a moment later: so from where it has come to rest.
    caches = agent.settings.data_dir / "builds"
    await eventually(lambda: used_mb(caches) < 300, timeout_s=20)
    before = used_mb(caches)
    build = await agent.ended(await agent.build("FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M\n"))
    assert build["failure"]["status"] == "disk_full"
    assert "disk_gb" in build["failure"]["next"]
    await eventually(lambda: used_mb(caches) < before + 64, timeout_s=90)
    assert "made before" not in await agent.output(await agent.built(first)), "the cache is what it was"


def used_mb(directory: Path) -> int:
    return sum(path.stat().st_blocks for path in directory.rglob("*.xfs")) * 512 >> 20


async def test_the_disk_of_the_host_is_left_to_machines(agent: BuildingAgent, registry: PushRegistry) -> None:
    free_mb = shutil.disk_usage(agent.directory).free >> 20
    agent.stop()
    before = dict(agent.builds)
    agent.builds["min_free_mb"] = free_mb + 10_000
    try:
        await agent.restarted()
        build = await agent.ended(await agent.build("FROM busybox\nRUN true\n"))
        assert build["failure"]["status"] == "disk_full"
        assert "min_free_mb" in build["failure"]["next"]
    finally:
        agent.builds = before
        agent.stop()
        await agent.restarted()


async def test_a_build_is_cancelled_at_once_with_all_it_started(agent: BuildingAgent) -> None:
    build = await agent.build("FROM busybox\nRUN (setsid sleep 1234567 &); echo running; sleep 1234567\n")
    await agent.printed(build, "running")
    began = time.monotonic()
    assert (await agent.cancel(build))["state"] == "cancelled"
    assert time.monotonic() - began < 5
    assert "1234567" not in command_lines()
    assert (await agent.cancel(build))["state"] == "cancelled", "again is no error"


async def test_a_build_that_waits_is_cancelled_without_ever_running(agent: BuildingAgent) -> None:
    first = await agent.build("FROM busybox\nRUN echo running; sleep 1234567\n")
    second = await agent.build("FROM busybox\nRUN true\n")
    await agent.printed(first, "running")
    assert (await agent.show(second))["state"] == "queued"
    assert (await agent.cancel(second))["started_at"] is None
    await agent.cancel(first)


async def test_a_build_that_takes_too_long_is_stopped(agent: BuildingAgent) -> None:
    agent.stop()
    before = dict(agent.builds)
    agent.builds["timeout_s"] = 3
    try:
        await agent.restarted()
        build = await agent.ended(await agent.build("FROM busybox\nRUN sleep 1234567\n"))
        assert build["failure"]["status"] == "timeout"
        assert "sleep 1234567" in build["failure"]["why"]
        assert "1234567" not in command_lines()
    finally:
        agent.builds = before
        agent.stop()
        await agent.restarted()


async def test_organizations_take_turns(agent: BuildingAgent) -> None:
    busy = [await agent.build(f"FROM busybox\nRUN echo busy {n}; sleep 1\n", no_cache=True) for n in range(3)]
    stranger = another_app("patient")
    small = await agent.build("FROM busybox\nRUN true\n", app=stranger, no_cache=True)
    small = await agent.ended(small, app=stranger)
    assert small["state"] == "done"
    assert (await agent.show(busy[-1]))["state"] == "queued"
    for build in busy:
        await agent.ended(build)


async def test_an_agent_that_is_killed_leaves_nothing_and_the_build_can_be_asked_for_again(
    agent: BuildingAgent,
) -> None:
    first = "FROM busybox\nRUN echo kept from before the crash\n"
    await agent.built(first)
    build = await agent.build(first + "RUN (setsid sleep 1234567 &); echo running; sleep 1234567\n")
    waiting = await agent.build("FROM busybox\nRUN true\n", app=agent.app)
    await agent.printed(build, "running")
    agent.kill()
    assert "1234567" in command_lines(), "it was running"
    await agent.restarted()
    for one in (build, waiting):
        assert (await agent.show(one))["state"] == "interrupted"
    assert "1234567" not in command_lines()
    assert "running" in await agent.output(build), "its log is still there"
    again = await agent.built(first + "RUN true\n")
    assert "kept from before" not in await agent.output(again), "the cache of finished builds is"


async def test_builds_are_in_the_journal_without_what_is_secret(agent: BuildingAgent) -> None:
    build = await agent.built("FROM busybox\nRUN true\n")
    agent.stop()
    await agent.restarted()
    assert await agent.show(build) == build
    with sqlite3.connect(agent.settings.data_dir / "journal.db") as journal:
        assert journal.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        (record,) = journal.execute("SELECT record FROM builds WHERE id = ?", (build["id"],)).fetchone()
    assert '"secret_names": []' in record
