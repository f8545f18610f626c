"""One tenant never reaches another, nor the host (faults.md rows 22-24): tried with real packets and real programs."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from caddisfly.bus import contract
from caddisfly.host.images.build import busybox_layer, tar_of, write_oci_layout
from caddisfly.model.machine import Machine
from tests.conftest import eventually, free_port
from tests.host.conftest import POOL, RunningAgent, Watcher, alive, pid_of

GATEWAY = POOL.replace(".0.0/16", ".0.1")
SERVE = "mkdir -p /tmp/www && echo -n reached > /tmp/www/index.html && exec httpd -f -p '[::]:8080' -h /tmp/www"


def network(agent: RunningAgent, number: int) -> contract.AppRecord:
    return agent.app.model_copy(update={"network_id": number, "name": f"app-{number}", "id": f"app{number:013}"})


async def reaches(agent: RunningAgent, machine: Machine, address: str, port: int = 8080) -> bool:
    """Whether an HTTP request from inside a Machine gets an answer."""
    request = r"printf 'GET /index.html HTTP/1.0\r\n\r\n'"
    reply = await agent.shell(machine, f"({request}; sleep 1) | timeout 3 nc -w 2 {address} {port}", timeout_s=10)
    return "reached" in reply.stdout


def listening(machine: Machine, agent: RunningAgent) -> bool:
    tables = Path(f"/proc/{pid_of(agent, machine)}/net/tcp6")
    return ":1F90 " in tables.read_text()


@pytest.fixture
async def machines(agent: RunningAgent, watcher: Watcher) -> dict[str, Machine]:
    """Two Machines of one network and one of another, each serving on port 8080."""
    made = {}
    for name, number in (("a", 7), ("b", 7), ("stranger", 8)):
        created = await agent.create(SERVE, app=network(agent, number))
        made[name] = await watcher.until(created, "started")
    for machine in made.values():
        await eventually(lambda machine=machine: listening(machine, agent))
    return made


async def test_neighbours_of_one_network_reach_each_other(agent: RunningAgent, machines: dict[str, Machine]) -> None:
    a, b = machines["a"], machines["b"]
    assert await reaches(agent, a, b.private_ip)
    assert await reaches(agent, b, a.private_ip)
    assert await reaches(agent, a, b.ipv4)


async def test_other_networks_are_out_of_reach_both_ways(agent: RunningAgent, machines: dict[str, Machine]) -> None:
    a, stranger = machines["a"], machines["stranger"]
    for here, there in ((a, stranger), (stranger, a)):
        assert not await reaches(agent, here, there.private_ip)
        assert not await reaches(agent, here, there.ipv4)


async def test_the_host_reaches_machines_but_they_do_not_reach_it(
    agent: RunningAgent, machines: dict[str, Machine]
) -> None:
    machine = machines["a"]
    port = free_port()
    addresses = {GATEWAY, "169.254.169.254", "127.0.0.1", *host_addresses()}
    server = await asyncio.start_server(answer_reached, host=None, port=port)
    try:
        reader, writer = await asyncio.open_connection(machine.ipv4, 8080)
        writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
        assert b"reached" in await reader.read()
        writer.close()
        here, there = await asyncio.open_connection(GATEWAY, port)
        assert b"reached" in await here.read(), "the host's own listener answers the host"
        there.close()
        for address in sorted(addresses):
            assert not await reaches(agent, machine, address, port), address
    finally:
        server.close()


async def answer_reached(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.0 200 OK\r\n\r\nreached")
    await writer.drain()
    writer.close()


def host_addresses() -> set[str]:
    out = subprocess.run(["ip", "-o", "-4", "addr", "show"], capture_output=True, text=True, check=True).stdout
    return {line.split()[3].split("/")[0] for line in out.splitlines()}


@pytest.mark.parametrize("family", [4, 6])
async def test_a_forged_source_is_dropped(agent: RunningAgent, machines: dict[str, Machine], family: int) -> None:
    """A Machine that takes its neighbour's address speaks to nobody, even to those the neighbour may speak to."""
    a, b, stranger = machines["a"], machines["b"], machines["stranger"]
    forged = b.ipv4 if family == 4 else b.private_ip
    target = a.ipv4 if family == 4 else a.private_ip
    inside = ["nsenter", f"--net=/proc/{pid_of(agent, stranger)}/ns/net"]
    size = "32" if family == 4 else "128"
    nodad = [] if family == 4 else ["nodad"]
    await command(*inside, "ip", "addr", "add", f"{forged}/{size}", "dev", "eth0", *nodad)
    with pytest.raises(OSError, match=r"timed out|unreachable|refused"):
        await asyncio.to_thread(connect_from, stranger, agent, forged, target)


def connect_from(machine: Machine, agent: RunningAgent, source: str, target: str) -> None:
    program = (
        "import socket,sys; s=socket.create_connection((sys.argv[2], 8080), timeout=1.5, "
        "source_address=(sys.argv[1], 0)); print('connected')"
    )
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{pid_of(agent, machine)}/ns/net", "python3", "-c", program, source, target],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "connected" not in done.stdout
    raise OSError(done.stderr.strip().splitlines()[-1])


@pytest.fixture
async def outside() -> AsyncIterator[str]:
    """A world beyond the host: a namespace with a server that says from where it was called."""
    name, address, server = "caddis-outside", "198.51.100.2", None
    program = (
        "import socket; s=socket.create_server(('198.51.100.2', 8080));\n"
        "while True:\n c,(who,_)=s.accept(); c.recv(100); c.sendall(b'reached from '+who.encode()); c.close()"
    )
    try:
        await command("ip", "netns", "add", name)
        await command("ip", "link", "add", "cadout0", "type", "veth", "peer", "name", "eth0", "netns", name)
        await command("ip", "addr", "add", "198.51.100.1/24", "dev", "cadout0")
        await command("ip", "link", "set", "cadout0", "up")
        for line in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            await command("ip", "-n", name, *line.split())
        server = await asyncio.create_subprocess_exec("ip", "netns", "exec", name, "python3", "-c", program)
        await eventually(lambda: can_connect(address))
        yield address
    finally:
        if server is not None:
            server.kill()
            await server.wait()
        await command("ip", "link", "del", "cadout0")
        await command("ip", "netns", "del", name)


def can_connect(address: str) -> bool:
    try:
        with socket.create_connection((address, 8080), timeout=1) as probe:
            probe.sendall(b"x")
    except OSError:
        return False
    return True


async def command(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(*words, stderr=subprocess.PIPE)
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()


async def test_the_outside_is_reached_under_the_hosts_address(
    agent: RunningAgent, machines: dict[str, Machine], outside: str
) -> None:
    reply = await agent.shell(machines["a"], f"echo hi | timeout 3 nc -w 2 {outside} 8080")
    assert reply.stdout == "reached from 198.51.100.1"


async def test_the_outside_does_not_reach_machines(
    agent: RunningAgent, machines: dict[str, Machine], outside: str
) -> None:
    await command("ip", "-n", "caddis-outside", "route", "add", POOL, "via", "198.51.100.1")
    program = f"import socket; socket.create_connection(('{machines['a'].ipv4}', 8080), timeout=1.5)"
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", "caddis-outside", "python3", "-c", program, stderr=subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode != 0
    assert b"timed out" in err


async def test_a_machine_has_no_more_rights_than_it_needs(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(), "started")
    status = (await agent.shell(machine, "cat /proc/self/status")).stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert fields["CapBnd"] == fields["CapEff"] == f"{ten_capabilities():016x}"
    refused = {
        "mount -t tmpfs none /mnt": "mount",
        "unshare -r true": "a user namespace",
        "unshare -n true": "a network namespace",
        "mknod /tmp/disk b 254 0": "a device",
        "chroot / mount -t proc none /proc": "mount in a chroot",
        "echo 1 > /proc/sys/kernel/panic": "a sysctl",
        "echo b > /proc/sysrq-trigger": "sysrq",
        "echo 1 > /sys/kernel/mm/ksm/run": "sysfs",
        "date -s 2000-01-01; test $(date +%Y) = 2000": "the clock",
        "hostname other": "the host name",
        "ip addr add 10.0.0.1/8 dev eth0": "addresses",
        "cat /proc/kcore | head -c 1 | grep -q .": "kernel memory",
        "ls /sys/fs/cgroup | grep -q .": "control groups",
        "ls /sys/firmware | grep -q .": "firmware",
    }
    for line, what in refused.items():
        assert (await agent.shell(machine, line)).exit_code != 0, what
    processes = (await agent.shell(machine, "ls /proc")).stdout.split()
    assert all(int(name) < 100 for name in processes if name.isdigit()), "only its own processes"
    devices = set((await agent.shell(machine, "ls /dev")).stdout.split())
    assert devices <= {
        *("console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin"),
        *("stdout", "tty", "urandom", "zero"),
    }


def ten_capabilities() -> int:
    numbers = {"chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7}
    numbers |= {"setpcap": 8, "net_bind_service": 10, "sys_chroot": 18}
    return sum(1 << number for number in numbers.values())


async def test_a_fork_bomb_a_full_disk_and_a_busy_loop_stay_inside(agent: RunningAgent, watcher: Watcher) -> None:
    neighbour = await watcher.until(await agent.create(app=network(agent, 8)), "started")
    bomb = await watcher.until(await agent.create("while :; do sleep 1000 & done", restart={"policy": "no"}), "started")
    group = next(Path("/sys/fs/cgroup").glob(f"**/caddisfly/{bomb.run_id}/pids.current"))

    def bounded() -> bool:
        return not group.exists() or int(group.read_text()) >= agent.settings.pids_limit

    await eventually(bounded, timeout_s=30)
    assert (await agent.shell(neighbour, "echo fine")).stdout == "fine\n"
    filled = await agent.shell(neighbour, "cat /dev/zero > /full; echo $?; stat -c %s /full", timeout_s=30)
    assert filled.stdout.split()[0] != "0"
    assert int(filled.stdout.split()[1]) < agent.settings.root_size_mb << 20
    assert alive(pid_of(agent, neighbour))
    await agent.ask(contract.DESTROY_MACHINE, contract.DestroyMachine(machine_id=bomb.id, force=True), timeout_s=30)
    await watcher.until(bomb, "destroyed", timeout_s=30)


@pytest.fixture
def canary() -> Iterator[Path]:
    path = Path("/etc/caddis-canary")
    path.write_text("untouched")
    yield path
    assert path.read_text() == "untouched"
    path.unlink()


async def test_links_in_an_image_do_not_lead_the_agent_out(
    agent: RunningAgent, watcher: Watcher, canary: Path, busybox: Path, tmp_path: Path
) -> None:
    """`config.files` and look-ups of users go through links that the image planted."""
    trap = tar_of({}, links={"etc/app": "/etc", "up": "../../../../../../etc"})
    write_oci_layout(tmp_path / "trap", layers=[busybox_layer(), trap], config={"Cmd": ["/bin/sh"]})
    await agent.ask(contract.IMPORT_IMAGE, contract.ImportImage(path=str(tmp_path / "trap"), name="trap:1"))
    for path in ("/etc/app/caddis-canary", "/up/caddis-canary"):
        request = agent.request(files=[{"guest_path": path, "raw_value": "cHduZWQ="}])
        config = {**request.config, "image": "trap:1"}
        reply = await agent.ask(contract.CREATE_MACHINE, request.model_copy(update={"config": config}))
        machine = await watcher.until(Machine.from_record(reply.record), "started")
        assert (await agent.shell(machine, "cat /etc/caddis-canary")).stdout == "pwned", "it stayed inside"
