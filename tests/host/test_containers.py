"""Several programs in one Machine, on a real host."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from caddisfly.bus import contract
from caddisfly.host.operations import plans
from caddisfly.model.errors import FailedPrecondition, InvalidArgument
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import IMAGE, RunningAgent, Watcher
from tests.host.paths import assert_path
from tests.host.test_agent_crash import arm, points, sandboxes

FOREVER = "while :; do sleep 0.1; done"
SERVER = "mkdir -p /tmp/www && echo hello > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"


def container(name: str, line: str = FOREVER, **members: Any) -> dict[str, Any]:
    return {"name": name, "image": IMAGE, "exec": ["/bin/sh", "-c", line], **members}


async def created(agent: RunningAgent, *containers: dict[str, Any], **config: Any) -> Machine:
    return await agent.create(containers=list(containers), image="", init={}, **config)


async def inside(agent: RunningAgent, machine: Machine, name: str, line: str) -> str:
    request = contract.ExecMachine(machine_id=machine.id, command=("/bin/sh", "-c", line), container=name)
    reply: contract.ExecReply = await agent.ask(contract.EXEC_MACHINE, request)
    return reply.stdout.strip()


def shown(machine: Machine) -> dict[str, str]:
    return dict(machine.containers)


async def all_up(watcher: Watcher, machine: Machine) -> Machine:
    return await watcher.until(machine, lambda now: {"started"} == set(shown(now).values()))


async def test_containers_share_the_network_and_nothing_else(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await created(
        agent,
        container("web", SERVER, env={"WHO": "web"}, user="65534", files=[{"guest_path": "/f", "raw_value": "aGk="}]),
        container("side", env={"WHO": "side"}, env_from=[{"env_var": "SELF", "field_ref": "id"}]),
        env={"ALL": "1"},
    )
    machine = await all_up(watcher, machine)
    assert machine.image.repository == "caddisfly/busybox"
    assert await inside(agent, machine, "web", "echo $WHO $ALL; id -u; cat /f") == "web 1\n65534\nhi"
    assert await inside(agent, machine, "side", "echo $WHO $ALL $SELF; id -u") == f"side 1 {machine.id}\n0"
    await eventually(lambda: _says(agent, machine, "side", "wget -q -O - http://127.0.0.1:8080/", "hello"))
    assert await inside(agent, machine, "side", "test -e /f || echo none; ps | grep -c [h]ttpd") == "none\n0"
    assert await inside(agent, machine, "", "echo $WHO") == "web"
    with pytest.raises(InvalidArgument, match="there are web, side"):
        await inside(agent, machine, "nosuch", "true")
    ps = await agent.ask(contract.LIST_PROCESSES, contract.MachineCall(machine_id=machine.id))
    assert {"httpd"} <= {one["command"].split()[0].rpartition("/")[2] for one in ps.processes}


async def _says(agent: RunningAgent, machine: Machine, name: str, line: str, words: str) -> bool:
    return await inside(agent, machine, name, line) == words


async def test_health_orders_them_and_is_shown(agent: RunningAgent, watcher: Watcher) -> None:
    check = {"name": "alive", "interval": 1, "timeout": 2, "exec": {"command": ["/bin/test", "-e", "/ready"]}}
    http = {"name": "page", "interval": 1, "http": {"port": 8080, "path": "/"}}
    machine = await created(
        agent,
        container("db", "echo in db; " + FOREVER, healthchecks=[check]),
        container("web", SERVER, depends_on=[{"name": "db", "condition": "healthy"}], healthchecks=[http]),
    )
    machine = await watcher.until(machine, lambda now: shown(now) == {"db": "started", "web": "created"})
    machine = await watcher.until(
        machine,
        lambda now: {one.name: one.status for one in now.checks} == {"db/alive": "critical", "web/page": "critical"},
    )
    with pytest.raises(FailedPrecondition, match="container not running"):
        await inside(agent, machine, "web", "true")
    await inside(agent, machine, "db", "touch /ready")
    machine = await watcher.until(machine, lambda now: shown(now) == {"db": "started", "web": "started"})
    machine = await watcher.until(machine, lambda now: {one.status for one in now.checks} == {"passing"})
    reply = await agent.ask(contract.READ_LOGS, contract.ReadLogs(machine_id=machine.id))
    assert [(line["fly"]["container"]["name"], line["message"]) for line in reply.lines] == [("db", "in db")]


async def test_one_that_is_not_well_is_stopped_when_its_check_says_so(agent: RunningAgent, watcher: Watcher) -> None:
    check = {
        "name": "alive",
        "interval": 1,
        "failure_threshold": 2,
        "kind": "liveness",
        "unhealthy": "stop",
        "exec": {"command": ["/bin/test", "!", "-e", "/tmp/sick"]},
    }
    line = "rm -f /tmp/sick; trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
    machine = await created(agent, container("a", line, restart={"policy": "always"}, healthchecks=[check]))
    machine = await watcher.until(machine, lambda now: {one.status for one in now.checks} == {"passing"})
    await inside(agent, machine, "a", "touch /tmp/sick")

    async def twice() -> bool:
        reply = await agent.ask(contract.READ_LOGS, contract.ReadLogs(machine_id=machine.id))
        return [line["message"] for line in reply.lines] == ["up", "up"]

    await eventually(twice, timeout_s=20)
    assert (await watcher.until(machine, "started")).run_id == machine.run_id


async def test_the_machine_ends_when_its_last_container_has(agent: RunningAgent, watcher: Watcher) -> None:
    after = {"name": "setup", "condition": "exited_successfully"}
    machine = await created(
        agent,
        container("setup", "exit 0"),
        container("job", "exit 3", depends_on=[after], restart={"policy": "no"}),
        restart={"policy": "no"},
    )
    stopped = await watcher.until(machine, "stopped")
    exit = stopped.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["exit_code"] == 3
    assert shown(stopped) == {"setup": "stopped", "job": "stopped"}


async def test_processes_share_a_root_and_end_together(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await agent.create(
        init={},
        processes=[
            {"exec": ["/bin/sh", "-c", FOREVER], "env": {"N": "0"}},
            {"exec": ["/bin/sh", "-c", "echo second > /shared; while ! test -e /go; do sleep 0.05; done; exit 5"]},
        ],
        restart={"policy": "no"},
    )
    machine = await watcher.until(machine, "started")
    await eventually(lambda: _says(agent, machine, "0", "cat /shared", "second"))
    assert await inside(agent, machine, "0", "echo $N") == "0"
    await inside(agent, machine, "0", "touch /go")
    stopped = await watcher.until(machine, "stopped")
    exit = stopped.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["exit_code"] == 5
    assert sandboxes(stopped) == []


async def test_an_update_brings_other_containers(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await all_up(watcher, await created(agent, container("a"), container("b"), rootfs={"persist": "always"}))
    await inside(agent, machine, "a", "touch /kept")
    config = {"containers": [container("a"), container("c")], "rootfs": {"persist": "always"}}
    await agent.ask(contract.UPDATE_MACHINE, contract.UpdateMachine(machine_id=machine.id, config=config))
    machine = await watcher.until(machine, lambda now: shown(now) == {"a": "started", "c": "started"})
    assert await inside(agent, machine, "a", "ls /kept") == "/kept"
    roots = agent.settings.data_dir / "images" / "fs" / "roots"
    assert {entry.name for entry in roots.iterdir()} == {f"{machine.id}-kept.a", f"{machine.id}-kept.c"}


@pytest.mark.parametrize(
    ("containers", "words"),
    [
        ([{"image": IMAGE}], r"containers\[0\].name"),
        ([container("a"), container("a")], "two containers named a"),
        ([container("a", depends_on=[{"name": "b"}])], "no container 'b'"),
        ([container("a", secrets=[{"name": "x"}])], r"containers\[0\].secrets\[0\].env_var"),
        ([container("a", mounts=[{"name": "x", "path": "/x"}])], "mounts are not there yet"),
    ],
)
async def test_containers_that_make_no_sense_are_refused(
    agent: RunningAgent, containers: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await created(agent, *containers)


async def test_a_killed_agent_finds_every_container_again(doomed: RunningAgent, watcher: Watcher) -> None:
    machine = await created(doomed, container("a"), container("b", restart={"policy": "always"}))
    machine = await all_up(watcher, machine)
    before = sorted(sandboxes(machine))
    assert len(before) == 2
    doomed.kill()
    await doomed.restarted()
    after = await all_up(watcher, machine)
    assert (after.run_id, sorted(sandboxes(after))) == (machine.run_id, before)
    assert await inside(doomed, after, "b", "echo alive") == "alive"
    request = contract.SignalMachine(machine_id=machine.id, signal=signal.Signals.SIGKILL.name)
    await doomed.ask(contract.SIGNAL_MACHINE, request)
    await eventually(lambda: len(sandboxes(machine)) >= 1 and not set(sandboxes(machine)) & set(before))
    assert_path(after)


@pytest.mark.parametrize("point", points(plans.LAUNCH))
async def test_a_create_that_was_interrupted_ends_with_each_container_once(
    doomed: RunningAgent, watcher: Watcher, point: str
) -> None:
    await arm(doomed, point)
    request = doomed.request(containers=[container("a"), container("b", depends_on=[{"name": "a"}])], image="", init={})
    acknowledged = await doomed.ask_in_vain(contract.CREATE_MACHINE, request)
    await doomed.died()
    await doomed.restarted()
    if not acknowledged:
        await doomed.ask(contract.CREATE_MACHINE, request)
    started = await watcher.until(
        request.machine_id, lambda now: shown(now) == {"a": "started", "b": "started"}, timeout_s=10
    )
    assert len(sandboxes(started)) == 2, "I1"
    assert_path(started)


@pytest.mark.parametrize("point", points(plans.STOP))
async def test_a_stop_that_was_interrupted_ends_every_container(
    doomed: RunningAgent, watcher: Watcher, point: str
) -> None:
    machine = await all_up(watcher, await created(doomed, container("a", restart={"policy": "always"}), container("b")))
    await arm(doomed, point)
    await doomed.ask_in_vain(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id, timeout_s=0.3))
    await doomed.died()
    await doomed.restarted()
    stopped = await watcher.until(machine, "stopped", timeout_s=15)
    assert sandboxes(machine) == []
    assert_path(stopped)
