"""Health checks of real Machines: what everyone sees follows what really answers, also over the end of an agent."""

from __future__ import annotations

import json
import sqlite3

from caddisfly.bus import contract
from caddisfly.model.check import NOT_YET
from caddisfly.model.machine import Machine
from tests.host.conftest import RunningAgent, Watcher

SERVE = "mkdir -p /tmp/www && echo -n well > /tmp/www/health && exec httpd -f -p 0.0.0.0:8080 -h /tmp/www"
HTTP = {"type": "http", "port": 8080, "path": "/health", "interval": "1s", "timeout": "1s", "grace_period": "0s"}
TCP = {"type": "tcp", "interval": "1s"}
PORTS = [{"port": 80, "handlers": ["http"]}]


def found(machine: Machine) -> dict[str, tuple[str, str]]:
    return {check.name: (check.status, check.output) for check in machine.checks}


async def test_checks_follow_the_app_also_over_the_end_of_the_agent(doomed: RunningAgent, watcher: Watcher) -> None:
    services = [{"protocol": "tcp", "internal_port": 8080, "ports": PORTS, "checks": [TCP]}]
    made = await doomed.create(SERVE, checks={"up": HTTP}, services=services)
    machine = await watcher.until(made, "started")
    assert list(found(machine)) == ["up", "servicecheck-00-tcp-8080"], "present as soon as it is started"
    well = {"up": ("passing", "well"), "servicecheck-00-tcp-8080": ("passing", "connected")}
    machine = await watcher.until(machine, lambda now: found(now) == well)

    await doomed.shell(machine, "rm /tmp/www/health")
    ill = await watcher.until(machine, lambda now: found(now)["up"][0] == "critical")
    assert found(ill)["up"][1].startswith("status 404: ")
    assert found(ill)["servicecheck-00-tcp-8080"] == ("passing", "connected")
    assert (ill.state, ill.run_id, ill.updated_ms) == (machine.state, machine.run_id, machine.updated_ms)

    seen: list[dict[str, tuple[str, str]]] = []
    with watcher.projection.listening(lambda _, new: seen.append(found(new)) if new else None):
        doomed.kill()
        await doomed.restarted()
        await doomed.shell(machine, "echo -n well > /tmp/www/health")
        await watcher.until(machine, lambda now: found(now) == well)
    assert all(now["servicecheck-00-tcp-8080"] == ("passing", "connected") for now in seen), seen
    assert all(now["up"][1] != NOT_YET for now in seen), "the agent's end says nothing about the app"

    await doomed.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id, signal="SIGKILL"))
    assert (await watcher.until(machine, "stopped")).checks == ()
    assert list((doomed.settings.run_dir / "checks").iterdir()) == []
    await doomed.ask(contract.START_MACHINE, contract.MachineCall(machine_id=machine.id))
    again = await watcher.until(machine, lambda now: found(now) == well)
    assert again.run_id != machine.run_id


async def test_results_are_published_and_not_journaled(doomed: RunningAgent, watcher: Watcher) -> None:
    made = await doomed.create(SERVE, checks={"up": HTTP})
    machine = await watcher.until(made, lambda now: found(now) == {"up": ("passing", "well")})
    journal = sqlite3.connect(f"file:{doomed.settings.data_dir / 'journal.db'}?mode=ro", uri=True)
    (record,) = journal.execute("SELECT record FROM machines WHERE id = ?", (machine.id,)).fetchone()
    journal.close()
    assert json.loads(record)["checks"] == []


async def test_an_app_that_never_answers_is_critical_and_stays_up(doomed: RunningAgent, watcher: Watcher) -> None:
    """A check never stops or restarts anything."""
    silent = "while :; do nc -l -p 8080 -e sleep 60; done"
    made = await doomed.create(silent, checks={"up": HTTP, "closed": {**TCP, "port": 9999, "grace_period": "0s"}})
    wanted = {"up": ("critical", "timed out after 1 s"), "closed": ("critical", "connect: connection refused")}
    machine = await watcher.until(made, lambda now: found(now) == wanted)
    assert machine.state == "started"
    assert (await doomed.shell(machine, "echo here")).stdout == "here\n"
