"""A Machine on a real host: from create to destroyed, with a real runtime, network and image store."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from caddisfly.bus import contract
from caddisfly.host.network import connections
from caddisfly.model.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Problem
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import IMAGE, RunningAgent, Watcher, alive, namespaces, pid_of


def states(machine: Machine) -> list[tuple[str, str]]:
    """Event types and statuses, oldest first."""
    return [(event.type, event.status) for event in reversed(machine.events)]


async def test_a_machine_starts_runs_stops_starts_again_and_goes(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await agent.create()
    assert machine.state == "created"
    machine = await watcher.until(machine, "started")
    assert alive(pid_of(agent, machine))
    assert (await agent.shell(machine, "echo out; echo err >&2; exit 7")) == contract.ExecReply(
        exit_code=7, stdout="out\n", stderr="err\n"
    )
    await agent.shell(machine, "touch /written")
    await agent.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id, signal="SIGTERM"))
    stopped = await watcher.until(machine, "stopped")
    assert machine.run_id not in namespaces()
    reply = await agent.ask(contract.START_MACHINE, contract.MachineCall(machine_id=machine.id))
    assert reply.previous_state == "stopped"
    again = await watcher.until(stopped, "started")
    assert again.run_id != machine.run_id
    assert again.private_ip == machine.private_ip
    assert (await agent.shell(again, "test -e /written")).exit_code == 1, "a stop resets the root file system"
    await agent.ask(contract.DESTROY_MACHINE, contract.DestroyMachine(machine_id=machine.id, force=True))
    gone = await watcher.until(again, "destroyed")
    assert states(gone) == [
        ("launch", "created"),
        ("start", "starting"),
        ("start", "started"),
        ("stop", "stopping"),
        ("exit", "stopped"),
        ("start", "starting"),
        ("start", "started"),
        ("destroy", "destroying"),
        ("exit", "stopped"),
        ("destroy", "destroyed"),
    ]
    exit_event = gone.events[-5].request["exit_event"]  # type: ignore[index]
    assert exit_event["requested_stop"]
    assert exit_event["exit_code"] == 143


async def test_what_it_had_open_is_forgotten_with_it(agent: RunningAgent, watcher: Watcher) -> None:
    """Its address will be somebody else's, who must not be let through to, or held back by, what was open before."""
    machine = await watcher.until(await agent.create("nc -ll -p 80 -e cat"), "started")
    addresses = frozenset((machine.ipv4, machine.private_ip))

    async def connected() -> asyncio.StreamWriter | None:
        try:
            return (await asyncio.open_connection(machine.ipv4, 80))[1]
        except OSError:
            return None

    writer = await eventually(connected)
    assert connections.may_be_open(addresses)
    await agent.ask(contract.DESTROY_MACHINE, contract.DestroyMachine(machine_id=machine.id, force=True))
    await watcher.until(machine, "destroyed")
    assert not connections.may_be_open(addresses)
    writer.close()


async def test_a_root_that_persists_outlives_stops_and_as_it_says_updates(
    agent: RunningAgent, watcher: Watcher
) -> None:
    kept = {}
    for persist in ("never", "restart", "always"):
        machine = await watcher.until(await agent.create(rootfs={"persist": persist}), "started")
        kept[persist] = [await _written_twice(agent, machine)]
        await agent.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id, timeout_s=0.1))
        await watcher.until(machine, "stopped")
        await agent.ask(contract.START_MACHINE, contract.MachineCall(machine_id=machine.id))
        machine = await watcher.until(machine, "started")
        kept[persist].append(await _written_twice(agent, machine))
        config = {**machine.config.wire, "env": {"NEW": "1"}, "stop_config": {"signal": "SIGKILL"}}
        await agent.ask(contract.UPDATE_MACHINE, contract.UpdateMachine(machine_id=machine.id, config=config))
        before = machine.run_id
        machine = await watcher.until(
            machine, lambda now, before=before: now.state == "started" and now.run_id != before
        )
        kept[persist].append(await _written_twice(agent, machine))
    assert kept == {
        "never": [False, False, False],
        "restart": [False, True, False],
        "always": [False, True, True],
    }
    roots = agent.settings.data_dir / "images" / "fs" / "roots"
    assert len([entry for entry in roots.iterdir() if "-kept" in entry.name]) == 2
    await agent.clear()
    assert list(roots.iterdir()) == []


async def _written_twice(agent: RunningAgent, machine: Machine) -> bool:
    """Whether a file was there already; it is afterwards."""
    return (await agent.shell(machine, "test -e /written; code=$?; touch /written; exit $code")).exit_code == 0


async def test_a_root_has_the_size_asked_for(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(rootfs={"size_gb": 1, "persist": "always"}), "started")
    size_kb = int((await agent.shell(machine, "df -k / | tail -1 | awk '{print $2}'")).stdout)
    assert 900 << 10 < size_kb < 1 << 20
    await agent.shell(machine, "dd if=/dev/zero of=/big bs=1M count=1100 2>/dev/null")
    assert int((await agent.shell(machine, "stat -c %s /big")).stdout) < 1 << 30


async def test_the_environment_names_files_and_limits_are_those_asked_for(
    agent: RunningAgent, watcher: Watcher
) -> None:
    machine = await agent.create(
        env={"A": 'quotes " and $ and\nnewline', "PATH": "/bin"},
        metadata={"fly_process_group": "web"},
        guest={"cpu_kind": "shared", "cpus": 1, "memory_mb": 256},
        files=[{"guest_path": "/etc/app/conf.d/x", "raw_value": base64.b64encode(b"hi").decode(), "mode": 0o640}],
    )
    machine = await watcher.until(machine, "started")

    async def inside(line: str) -> str:
        return (await agent.shell(machine, line)).stdout.strip()

    assert await inside('printf %s "$A"') == 'quotes " and $ and\nnewline'
    assert await inside("echo $FLY_APP_NAME $FLY_MACHINE_ID $FLY_REGION $FLY_PROCESS_GROUP $FLY_VM_MEMORY_MB") == (
        f"demo {machine.id} lab web 256"
    )
    assert await inside("echo $FLY_MACHINE_VERSION $FLY_PRIVATE_IP") == f"{machine.instance_id} {machine.private_ip}"
    assert await inside("hostname") == machine.id
    assert await inside("grep fly-local-6pn /etc/hosts") == f"{machine.private_ip}\tfly-local-6pn"
    assert await inside("cat /etc/app/conf.d/x; stat -c %a /etc/app/conf.d/x") == "hi640"
    assert await inside("cat /proc/1/comm") == "init"
    await agent.shell(machine, "head -c 200M /dev/zero > /big")
    assert int(await inside("stat -c %s /big")) < 64 << 20, "the writable layer ends at its limit"


async def test_a_file_may_be_the_config_of_an_image(agent: RunningAgent, watcher: Watcher) -> None:
    files = [{"guest_path": "/etc/image.json", "image_config": IMAGE, "mode": 0o600}]
    own = [{"guest_path": "/own.json", "image_config": IMAGE}]
    main = {"name": "main", "image": IMAGE, "files": own, "exec": ["/bin/sh", "-c", "while :; do sleep 1; done"]}
    machine = await agent.create(image="", init={}, files=files, containers=[main])
    machine = await watcher.until(machine, "started")
    assert machine.file_images == {IMAGE: machine.references["main"]}
    for path in ("/etc/image.json", "/own.json"):
        found = json.loads((await agent.shell(machine, f"cat {path}")).stdout)
        assert found["os"] == "linux"
        assert found["rootfs"]["type"] == "layers"
    assert (await agent.shell(machine, "stat -c %a /etc/image.json")).stdout.strip() == "600"
    with pytest.raises(Problem, match="tenants name images"):
        await agent.create(files=[{"guest_path": "/x", "image_config": "127.0.0.1:1/absent:v1"}])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"image": "not a reference!"}, "not a reference"),
        ({"image": "caddisfly/busybox:test", "guest": {"cpus": 3}}, "invalid config.guest.cpus"),
        ({"image": "caddisfly/busybox:test", "mounts": [{"volume": "v", "path": "/d"}]}, "volumes are not there"),
    ],
)
async def test_a_wrong_create_names_what_is_wrong_and_leaves_nothing(
    agent: RunningAgent, config: dict[str, object], words: str
) -> None:
    request = contract.CreateMachine(machine_id="1" * 14, app=agent.app, name="x", config=config, region="lab")
    with pytest.raises(InvalidArgument, match=words):
        await agent.ask(contract.CREATE_MACHINE, request)
    with pytest.raises(NotFound):
        await agent.ask(contract.START_MACHINE, contract.MachineCall(machine_id="1" * 14))


async def test_a_command_that_is_not_in_the_image_fails_with_its_name(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await agent.create(init={"exec": ["nosuchprogram", "x"]})
    failed = await watcher.until(machine, "failed")
    event = failed.newest("exit")
    assert event is not None
    assert event.request is not None
    error = event.request["exit_event"]["error"]
    assert "nosuchprogram" in error
    assert IMAGE in error
    assert not [name for name in namespaces() if name.startswith(machine.id)]


async def test_the_policy_restarts_what_fails_and_gives_up(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await agent.create("exit 3", restart={"policy": "on-failure", "max_retries": 2})
    stopped = await watcher.until(machine, "stopped")
    exits = [event.request["exit_event"] for event in stopped.events if event.type == "exit" and event.request]
    assert [(exit["exit_code"], exit["restarting"]) for exit in exits] == [(3, False), (3, True), (3, True)]
    assert stopped.instance_id == machine.instance_id


async def test_the_policy_leaves_a_good_exit_alone(agent: RunningAgent, watcher: Watcher) -> None:
    stopped = await watcher.until(await agent.create("exit 0"), "stopped")
    assert [event.status for event in stopped.events if event.type == "restart"] == []


async def test_a_stop_ends_the_waiting_of_a_crash_loop(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await agent.create("exit 1", restart={"policy": "always"})
    await watcher.until(machine, lambda now: now.restart_count >= 3)
    await agent.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id))
    await watcher.until(machine, "stopped")


async def test_auto_destroy_follows_the_exit_and_keeps_its_code(agent: RunningAgent, watcher: Watcher) -> None:
    gone = await watcher.until(await agent.create("exit 3", restart={"policy": "no"}, auto_destroy=True), "destroyed")
    exit = gone.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["exit_code"] == 3


async def test_out_of_memory_is_seen_and_hurts_only_the_machine(agent: RunningAgent, watcher: Watcher) -> None:
    neighbour = await watcher.until(await agent.create(), "started")
    machine = await agent.create("x=a; while :; do x=$x$x; done", restart={"policy": "no"})
    stopped = await watcher.until(machine, "stopped", timeout_s=40)
    exit = stopped.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["oom_killed"]
    assert alive(pid_of(agent, neighbour))


async def test_a_process_that_ignores_signals_is_killed_when_its_time_is_over(
    agent: RunningAgent, watcher: Watcher
) -> None:
    machine = await watcher.until(await agent.create("trap '' INT TERM; while :; do sleep 1; done"), "started")
    await agent.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id, timeout_s=0.3))
    stopped = await watcher.until(machine, "stopped")
    exit = stopped.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["exit_code"] == 137


async def test_an_update_replaces_config_and_version(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(env={"A": "1"}), "started")
    config = {"image": IMAGE, "init": {"exec": ["/bin/sh", "-c", "while :; do sleep 1; done"]}}
    reply = await agent.ask(contract.UPDATE_MACHINE, contract.UpdateMachine(machine_id=machine.id, config=config))
    assert reply.record["instance_id"] != machine.instance_id
    updated = await watcher.until(machine, lambda now: now.state == "started" and now.run_id != machine.run_id)
    assert (await agent.shell(updated, "echo $FLY_MACHINE_VERSION:$A")).stdout == f"{updated.instance_id}:\n"


async def test_an_update_to_an_image_that_cannot_be_had_leaves_the_old_one_running(
    agent: RunningAgent, watcher: Watcher
) -> None:
    machine = await watcher.until(await agent.create(), "started")
    request = contract.UpdateMachine(machine_id=machine.id, config={"image": "127.0.0.1:9/none:1"})
    with pytest.raises(Exception, match=r"127\.0\.0\.1:9"):
        await agent.ask(contract.UPDATE_MACHINE, request)
    assert alive(pid_of(agent, machine))


async def test_a_stopped_machine_stays_stopped_on_update(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(skip_launch=True), "stopped")
    assert machine.newest("start") is None
    await agent.ask(
        contract.UPDATE_MACHINE,
        contract.UpdateMachine(machine_id=machine.id, config={"image": IMAGE, "env": {"B": "2"}}),
    )
    after = await watcher.until(machine, lambda now: now.instance_id != machine.instance_id and not now.operation)
    assert after.state == "stopped"
    assert after.config.env == {"B": "2"}


async def test_a_name_is_unique_while_its_machine_lives(agent: RunningAgent, watcher: Watcher) -> None:
    first = await watcher.until(await agent.create(name="a"), "started")
    with pytest.raises(AlreadyExists, match=f'machine ID {first.id} already exists with name "a"'):
        await agent.create(name="a")
    await agent.ask(contract.DESTROY_MACHINE, contract.DestroyMachine(machine_id=first.id, force=True))
    await watcher.until(first, "destroyed")
    assert (await agent.create(name="a")).id != first.id


async def test_only_what_rests_is_destroyed_without_force(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(), "started")
    with pytest.raises(FailedPrecondition, match="unable to destroy machine, not currently stopped"):
        await agent.ask(contract.DESTROY_MACHINE, contract.DestroyMachine(machine_id=machine.id))


async def test_creating_twice_with_one_id_makes_one_machine(agent: RunningAgent, watcher: Watcher) -> None:
    request = contract.CreateMachine(
        machine_id="ab" * 7,
        app=agent.app,
        name="once",
        config={"image": IMAGE, "init": {"exec": ["/bin/sleep", "1000"]}},
        region="lab",
    )
    first = Machine.from_record((await agent.ask(contract.CREATE_MACHINE, request)).record)
    started = await watcher.until(first, "started")
    again = Machine.from_record((await agent.ask(contract.CREATE_MACHINE, request)).record)
    assert (again.id, again.run_id) == (started.id, started.run_id)


async def test_a_hundred_wakes_start_a_machine_once(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(skip_launch=True), "stopped")
    call = contract.MachineCall(machine_id=machine.id, source="proxy")
    replies = await asyncio.gather(*(agent.ask(contract.WAKE_MACHINE, call) for _ in range(100)))
    assert {reply.record["run_id"] for reply in replies} == {replies[0].record["run_id"]}
    started = await watcher.until(machine, "started")
    assert states(started).count(("start", "started")) == 1


async def test_what_a_machine_prints_can_be_read_back(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create("echo one; echo two >&2; exec sleep 1000"), "started")

    async def lines() -> list[tuple[str, str]]:
        reply = await agent.ask(contract.READ_LOGS, contract.ReadLogs(machine_id=machine.id))
        return [(line["stream"], line["message"]) for line in reply.lines]

    await eventually(lambda: _both(lines()))


async def _both(lines: object) -> bool:
    return set(await lines) == {("stdout", "one"), ("stderr", "two")}  # type: ignore[misc]
