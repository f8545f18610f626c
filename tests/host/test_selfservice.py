"""`/.fly/api` in real Machines: what a program inside can do with it, also after the end of an agent and without a bus.

The image's busybox cannot speak to Unix sockets, so the tests knock from the host's side of a Machine's own view of its
root, as the user that a program inside would be.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import Any

from caddisfly.bus import contract
from caddisfly.model.machine import Machine
from tests.host.conftest import RunningAgent, Watcher, pid_of

_KNOCK = """
import socket, sys
knocking = socket.socket(socket.AF_UNIX)
knocking.settimeout(10)
knocking.connect("api")
knocking.sendall(sys.argv[1].encode())
answer = b""
while data := knocking.recv(65536):
    answer += data
sys.stdout.buffer.write(answer)
"""


async def knock(agent: RunningAgent, machine: Machine, method: str, rest: str, body: object = None) -> tuple[int, Any]:
    """Ask as user 1000 of the Machine. Returns status and JSON."""
    text = "" if body is None else json.dumps(body)
    path = rest if rest.startswith("/v1") else f"/v1/apps/{machine.app_name}/machines/{machine.id}{rest}"
    request = f"{method} {path} HTTP/1.1\r\nHost: flaps\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    done = await asyncio.to_thread(
        subprocess.run,
        ["/usr/bin/python3", "-c", _KNOCK, request],
        cwd=f"/proc/{pid_of(agent, machine)}/root/.fly",
        user=1000,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    head, _, answer = done.stdout.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(answer) if answer else None


async def test_a_machine_sees_and_changes_itself_and_nothing_else(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(metadata={"role": "web"}), "started")
    other = await watcher.until(await agent.create(), "started")
    status, shown = await knock(agent, machine, "GET", "")
    assert (status, shown["id"], shown["state"]) == (200, machine.id, "started")
    assert await knock(agent, machine, "POST", "/metadata/colour", {"value": "green"}) == (204, None)
    assert await knock(agent, machine, "GET", "/metadata") == (200, {"role": "web", "colour": "green"})
    await watcher.until(machine, lambda now: now.config.metadata.get("colour") == "green")

    for method, path in (("GET", ""), ("POST", "/stop"), ("GET", "/metadata")):
        status, _ = await knock(agent, machine, method, f"/v1/apps/{other.app_name}/machines/{other.id}{path}")
        assert status == 403
    assert watcher.projection.machines[other.id].state == "started"
    refused, why = await knock(agent, machine, "POST", "/suspend")
    assert (refused, why["error"][:20]) == (412, "failed_precondition:")


async def test_a_machine_stops_itself_and_finds_its_door_again_when_it_runs_again(
    agent: RunningAgent, watcher: Watcher
) -> None:
    made = await agent.create(restart={"policy": "always"})
    machine = await watcher.until(made, "started")
    assert await knock(agent, machine, "POST", "/stop", {"signal": "SIGKILL"}) == (200, {"ok": True})
    stopped = await watcher.until(machine, "stopped")
    exit = stopped.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["requested_stop"]
    assert not (agent.settings.run_dir / "self" / machine.id).exists(), "a Machine that is down has no door"
    await agent.ask(contract.START_MACHINE, contract.MachineCall(machine_id=machine.id))
    again = await watcher.until(machine, "started")
    assert (await knock(agent, again, "GET", ""))[0] == 200


async def test_the_door_outlives_the_agent(doomed: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await doomed.create(), "started")
    pid = pid_of(doomed, machine)
    doomed.kill()
    left = doomed.settings.run_dir / "self" / "0123456789abcd"
    left.mkdir()
    (left / "api").touch()
    await doomed.restarted()
    assert pid_of(doomed, machine) == pid
    assert (await knock(doomed, machine, "GET", ""))[0] == 200
    assert not left.exists(), "what belongs to no Machine is taken away"


async def test_without_the_bus_a_machine_still_knows_itself(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(metadata={"role": "web"}), "started")
    agent.nats.freeze()
    try:
        assert await knock(agent, machine, "GET", "/metadata/role") == (200, {"value": "web"})
        assert (await knock(agent, machine, "PATCH", "/metadata", {"metadata": {"role": "db"}}))[0] == 204
        assert await knock(agent, machine, "GET", "/metadata/role") == (200, {"value": "db"})
    finally:
        agent.nats.thaw()
    await watcher.until(machine, lambda now: now.config.metadata == {"role": "db"}, timeout_s=40)


async def test_inside_nothing_can_be_put_in_the_doors_place(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(), "started")
    tries = "rm -f /.fly/api; rm -rf /.fly; touch /.fly/x; chmod 777 /.fly; ln -s / /.fly/y; mv /.fly /z; umount /.fly"
    await agent.shell(machine, tries)
    directory = agent.settings.run_dir / "self" / machine.id
    assert [entry.name for entry in directory.iterdir()] == ["api"]
    assert (await knock(agent, machine, "GET", ""))[0] == 200


async def test_files_of_the_machine_below_the_doors_directory_do_no_harm(agent: RunningAgent, watcher: Watcher) -> None:
    files = [{"guest_path": "/.fly/own", "raw_value": "aGVsbG8="}]
    machine = await watcher.until(await agent.create(files=files), "started")
    assert (await knock(agent, machine, "GET", ""))[0] == 200
    assert not (agent.settings.run_dir / "self" / machine.id / "own").exists()
