"""Machines stop because nobody needs them, again and again, under people who come and go: nobody is ever refused."""

from __future__ import annotations

import asyncio
import random

from tests.conftest import eventually
from tests.faults.platform import Api, Platform, request

SERVICE = {
    "protocol": "tcp",
    "internal_port": 8080,
    "autostart": True,
    "autostop": "stop",
    "concurrency": {"type": "requests", "soft_limit": 2},
    "ports": [{"port": 80, "handlers": ["http"]}],
}
KILLED = {5: "edge@0", 10: "bus", 15: "agent"}
"""In these rounds, between two waves of requests."""


async def test_visitors_never_notice_that_machines_stop(platform: Platform, api: Api) -> None:
    """Waves of requests with pauses about as long as a pass. Parts are killed meanwhile, with no request under way."""
    machines = [(await api.started(services=[SERVICE]))["id"] for _ in range(2)]
    chance, outcomes = random.Random(7), []
    for number in range(20):
        wave = [request(platform.ports["edge"], timeout_s=30) for _ in range(chance.randrange(1, 8))]
        outcomes += await asyncio.gather(*wave)
        if part := KILLED.get(number):
            await platform.back(part, instead_of=platform.kill(part))
        await asyncio.sleep(chance.uniform(0.2, 2.5))
    assert set(outcomes) == {"served"}
    await eventually(api.answers, timeout_s=20, every_s=0.1)
    events = [event for id in machines for event in (await api.get(id))["events"]]
    stops = [event for event in events if event["type"] == "stop"]
    assert len(stops) >= 5, "these visitors hardly ever let a Machine go"
    assert {event["source"] for event in stops} == {"proxy"}
    for id in machines:
        await api.state(id, "stopped", timeout_s=60)
    assert "autostop" in (await platform.command("machine", "why", machines[0], "-a", "web")).stdout
