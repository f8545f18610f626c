"""A virtual machine that is suspended again and again, under requests that the edge holds meanwhile.

The requests come at any moment of a round: while its memory is written, when it sleeps, while it wakes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.conftest import eventually
from tests.faults.platform import APP, Platform, running

ROUNDS, SLEPT_MIN, AT_ONCE = 50, 25, 5
SPREAD_S = 0.8
COUNTS = (
    "mkdir -p /tmp/www; echo 0 > /tmp/www/n; "
    "(i=0; while :; do i=$((i+1)); echo $i > /tmp/www/new; mv /tmp/www/new /tmp/www/n; sleep 0.05; done) & "
    "exec httpd -f -p '[::]:8080' -h /tmp/www"
)


def _virtual(platform: Platform) -> None:
    platform.file.write_text(platform.file.read_text().replace("[host]\n", '[host]\nisolation = "microvm"\n'))


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running(_virtual) as made:
        yield made


async def count(port: int) -> int:
    """The number in the Machine's memory, asked for through the edge. Anything but an answer is a failure."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"GET /n HTTP/1.1\r\nhost: {APP}.localhost\r\nconnection: close\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return int(answer.rpartition(b"\r\n\r\n")[2])


async def later(port: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return await count(port)


async def test_a_counter_never_goes_back_and_no_request_is_lost(platform: Platform) -> None:
    chance, port = random.Random(1), platform.ports["edge"]
    async with platform.api() as api:
        machine = await api.create(line=COUNTS, guest={"cpus": 1, "cpu_kind": "shared", "memory_mb": 256})
        await api.state(machine["id"], "started", timeout_s=60)
        await eventually(lambda: count(port), timeout_s=30)
        last = slept = 0
        for _ in range(ROUNDS):
            reply = await api.http.post(f"/v1/apps/{APP}/machines/{machine['id']}/suspend")
            assert reply.status_code == 200, reply.text
            asking = [later(port, chance.random() * SPREAD_S) for _ in range(AT_ONCE)]
            counts = await asyncio.gather(*asking)
            assert min(counts) >= last, "its memory is older than what it has said"
            last = max(counts)
            found = await api.state(machine["id"], "started", timeout_s=30)
            slept += any(event["type"] == "resume" for event in found["events"][:2])
        assert slept >= SLEPT_MIN, "most rounds were slept through, the others undone because somebody came"
        found = await api.get(machine["id"])
        assert found["instance_id"] == machine["instance_id"]
        assert not [event for event in found["events"] if event["type"] == "exit"], "it was never started anew"
        await api.clear()
