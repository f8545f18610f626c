"""Secrets inside real Machines, and nowhere else on their host (I8)."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caddisfly.bus import contract
from caddisfly.bus.sealing import Box, new_key
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import IMAGE, SECRETS_KEY, RunningAgent, Watcher

SWORDFISH = "swordfish-2f8a"


_VERSIONS = itertools.count(1)


def sealed(agent: RunningAgent, key: str = SECRETS_KEY, **values: str) -> contract.SecretSet:
    box, app_id = Box(key), agent.app.id
    return contract.SecretSet(
        version=next(_VERSIONS),
        values={name: box.seal(value, app_id=app_id, name=name) for name, value in values.items()},
    )


async def create(agent: RunningAgent, secrets: contract.SecretSet | None, *command: str, **config: Any) -> Machine:
    request = agent.request(*command, **config).model_copy(update={"secrets": secrets})
    return Machine.from_record((await agent.ask(contract.CREATE_MACHINE, request)).record)


async def update(agent: RunningAgent, machine: Machine, secrets: contract.SecretSet | None, **config: Any) -> Machine:
    wire: Mapping[str, Any] = {**machine.config.wire, **config}
    call = contract.UpdateMachine(machine_id=machine.id, config=dict(wire), secrets=secrets)
    return Machine.from_record((await agent.ask(contract.UPDATE_MACHINE, call)).record)


async def run_again(watcher: Watcher, before: Machine) -> Machine:
    """Once it runs in another incarnation than before."""
    return await watcher.until(before, lambda now: now.state == "started" and now.run_id != before.run_id)


async def printed(agent: RunningAgent, machine: Machine, line: str) -> str:
    """By a shell inside, with the environment of the main process in /tmp/env."""
    reply = await agent.shell(machine, f"tr '\\0' '\\n' < /proc/1/environ > /tmp/env; {line}")
    return reply.stdout.strip()


async def test_a_program_finds_them_in_its_environment_stronger_than_config_weaker_than_fly(
    agent: RunningAgent, watcher: Watcher
) -> None:
    secrets = sealed(agent, TOKEN=SWORDFISH, MODE="secret", FLY_REGION="moon", LINES="a\nb=c")
    machine = await watcher.until(
        await create(agent, secrets, 'echo "$TOKEN|$MODE|$FLY_REGION|$LINES" > /seen; sleep 1000', env={"MODE": "x"}),
        "started",
    )
    seen = await eventually(lambda: printed(agent, machine, "cat /seen"))
    assert seen == f"{SWORDFISH}|secret|{agent.settings.region}|a\nb=c"


async def test_a_restart_keeps_them_and_an_update_brings_new_ones_or_none(
    agent: RunningAgent, watcher: Watcher
) -> None:
    line = 'echo "$TOKEN" > /seen; sleep 1000'
    machine = await watcher.until(await create(agent, sealed(agent, TOKEN="first"), line), "started")
    await agent.ask(contract.RESTART_MACHINE, contract.StopMachine(machine_id=machine.id, signal="SIGKILL"))
    again = await run_again(watcher, machine)
    assert await eventually(lambda: printed(agent, again, "cat /seen")) == "first"
    await update(agent, again, sealed(agent, TOKEN="second"))
    updated = await run_again(watcher, again)
    assert await eventually(lambda: printed(agent, updated, "cat /seen")) == "second"
    await update(agent, updated, None)
    bare = await run_again(watcher, updated)
    assert (await agent.shell(bare, "cat /seen")).stdout in ("", "\n")
    assert bare.secrets_version == 0


async def test_an_agent_that_is_killed_in_an_update_knows_the_new_ones(doomed: RunningAgent, watcher: Watcher) -> None:
    line = 'echo "$TOKEN" > /seen; sleep 1000'
    machine = await watcher.until(await create(doomed, sealed(doomed, TOKEN="first"), line), "started")
    await update(doomed, machine, sealed(doomed, TOKEN="second"), init={"exec": ["/not/there"]})
    failed = await watcher.until(machine, "failed")
    third = sealed(doomed, TOKEN="third")
    await update(doomed, failed, third, init=machine.config.wire["init"])
    doomed.kill()
    await doomed.restarted()
    await watcher.until(failed, lambda now: now.secrets_version == third.version and not now.operation)
    await doomed.ask(contract.START_MACHINE, contract.MachineCall(machine_id=machine.id))
    started = await watcher.until(failed, "started")
    assert await eventually(lambda: printed(doomed, started, "cat /seen")) == "third"


async def test_a_file_has_the_content_of_a_secret(agent: RunningAgent, watcher: Watcher) -> None:
    key = b"\x00\x01 not text \xff"
    secrets = sealed(agent, KEY=base64.b64encode(key).decode())
    files = [{"guest_path": "/etc/app/key", "secret_name": "KEY", "mode": 0o400}]
    machine = await watcher.until(await create(agent, secrets, files=files), "started")
    reply = await agent.shell(machine, "stat -c %a /etc/app/key; base64 /etc/app/key")
    assert reply.stdout.split() == ["400", base64.b64encode(key).decode()]


async def test_what_cannot_be_had_is_said_and_stops_the_start(agent: RunningAgent, watcher: Watcher) -> None:
    files = [{"guest_path": "/key", "secret_name": "KEY"}]
    for secrets, config, said in (
        (sealed(agent, OTHER="x"), {"files": files}, "has no secret KEY"),
        (sealed(agent, KEY="no base64!"), {"files": files}, "is not base64"),
        (sealed(agent, key=new_key(), KEY="x"), {}, "sealed with another key"),
    ):
        failed = await watcher.until(await create(agent, secrets, **config), "failed")
        error = (failed.newest("exit").request or {})["exit_event"]["error"]  # type: ignore[union-attr]
        assert said in error


async def test_nothing_of_them_is_on_the_disk_in_the_log_or_in_the_catalog(
    agent: RunningAgent, watcher: Watcher
) -> None:
    machine = await watcher.until(await create(agent, sealed(agent, TOKEN=SWORDFISH)), "started")
    assert await printed(agent, machine, "grep TOKEN /tmp/env") == f"TOKEN={SWORDFISH}"
    await agent.shell(machine, "rm /tmp/env")
    assert SWORDFISH not in str(machine.to_record())
    found = []
    for directory in (agent.directory / "data", agent.directory / "run"):
        for path in directory.rglob("*"):
            if path.is_file() and "images" not in path.parts and SWORDFISH.encode() in path.read_bytes():
                found.append(path)
    # The runtime's own description of what it is to run is in memory, and root's alone.
    assert {path.name for path in found} <= {"config.json", "state.json"}
    assert all(_private(path, agent.settings.run_dir) for path in found)
    assert SWORDFISH not in agent.log
    for process in Path("/proc").glob("[0-9]*"):
        try:
            assert SWORDFISH.encode() not in (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue


def _private(path: Path, above: Path) -> bool:
    """Whether something on the way keeps all but root out."""
    return any(not parent.stat().st_mode & 0o077 for parent in (path, *path.parents) if parent.is_relative_to(above))


async def test_containers_get_those_that_they_name_and_processes_all_unless_they_say(
    agent: RunningAgent, watcher: Watcher
) -> None:
    """Reference machines-api, 2.8 and 2.11."""
    secrets = sealed(agent, A="1", B="2")
    line = 'echo "$A|$B|$C" > /seen-$NAME; sleep 1000'

    def program(name: str, **more: Any) -> dict[str, Any]:
        return {"exec": ["/bin/sh", "-c", line], "env": {"NAME": name}, **more}

    containers = [
        {"name": "none", "image": IMAGE, **program("none")},
        {"name": "one", "image": IMAGE, **program("one", secrets=[{"env_var": "C", "name": "A"}])},
    ]
    request = agent.request(containers=containers)
    config = {name: value for name, value in request.config.items() if name not in ("image", "init")}
    request = request.model_copy(update={"secrets": secrets, "config": config})
    machine = Machine.from_record((await agent.ask(contract.CREATE_MACHINE, request)).record)
    await watcher.until(machine, "started")
    for name, seen in (("none", "||"), ("one", "||1")):
        command = contract.ExecMachine(
            machine_id=machine.id, command=("cat", f"/seen-{name}"), timeout_s=10, container=name
        )

        async def found(command: contract.ExecMachine = command) -> str:
            return str((await agent.ask(contract.EXEC_MACHINE, command)).stdout.strip())

        assert await eventually(found, every_s=0.1) == seen
    processes = [
        program("all"),
        program("listed", secrets=[{"env_var": "C", "name": "B"}]),
        program("ignoring", ignore_app_secrets=True),
    ]
    machine = await watcher.until(await create(agent, sealed(agent, A="1", B="2"), processes=processes), "started")
    for name, seen in (("all", "1|2|"), ("listed", "||2"), ("ignoring", "||")):
        assert await eventually(lambda name=name: printed(agent, machine, f"cat /seen-{name}"), every_s=0.1) == seen


async def test_a_container_that_names_a_secret_that_is_not_there_does_not_start(
    agent: RunningAgent, watcher: Watcher
) -> None:
    wants = {"name": "a", "image": IMAGE, "secrets": [{"env_var": "X"}]}
    failed = await watcher.until(await create(agent, sealed(agent, A="1"), containers=[wants]), "failed")
    error = (failed.newest("exit").request or {})["exit_event"]["error"]  # type: ignore[union-attr]
    assert "has no secret X" in error
