"""What people get wrong, through the real command line: each answer says what, why and what next; nothing is left."""

from __future__ import annotations

import time

import pytest

from tests.conftest import eventually
from tests.faults.platform import APP, IMAGE, Api, Platform
from tests.leaks import traces


def parts_of(text: str) -> dict[str, str]:
    """`Error`, `Why` and `Next` of what a command printed."""
    found: dict[str, str] = {}
    label = ""
    for line in text.splitlines():
        head = line[:7].rstrip()
        if head in ("Error:", "Why:", "Next:"):
            label = head.removesuffix(":")
            found[label] = line[7:]
        elif label:
            found[label] += f"\n{line.strip()}"
    return found


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["not a reference!"], "not a reference"),
        (["127.0.0.1:9/none:1"], "127.0.0.1:9"),
        (["nosuch.invalid/none:1"], "nosuch.invalid"),
        ([IMAGE, "--vm-cpu-kind", "performance", "--vm-cpus", "16", "--vm-memory", "131072"], "insufficient"),
        ([IMAGE, "--vm-cpus", "3"], "config.guest.cpus, shared allows 1, 2, 4, 6, 8, got 3"),
        ([IMAGE, "--vm-size", "enormous-1x"], "enormous-1x"),
        ([IMAGE, "-r", "ams"], "ams"),
        ([IMAGE, "-a", "nosuchapp"], "app"),
    ],
)
async def test_a_machine_that_cannot_be_made(platform: Platform, api: Api, words: list[str], what: str) -> None:
    before = traces()
    app = [] if "-a" in words else ["-a", APP]
    done = await platform.command("machine", "run", *words, *app)
    assert done.returncode != 0
    assert done.stdout == ""
    said = parts_of(done.stderr)
    assert what in said["Error"], done.stderr
    assert "Next" in said or "allows" in what, done.stderr
    assert "Traceback" not in done.stderr
    assert await api.list() == []
    assert traces() == before


async def test_a_command_that_does_not_exist(platform: Platform, api: Api) -> None:
    """The Machine stays, as failed, so that one can look at it; what it would run on is gone."""
    before = traces()
    done = await platform.command("machine", "run", IMAGE, "-a", APP, "-n", "wrong", "nosuchprogram", "x")
    assert done.returncode != 0
    said = parts_of(done.stderr)
    assert "did not stay up, it is failed" in said["Error"]
    assert "'nosuchprogram' does not exist in image" in said["Why"]
    assert "caddis logs" in said["Next"]
    (machine,) = await api.list()
    assert machine["state"] == "failed"
    assert traces() == before
    await api.http.delete(f"/v1/apps/{APP}/machines/{machine['id']}", params={"force": "true"})


async def test_tokens_that_are_no_good(platform: Platform, api: Api) -> None:
    await api.create("mine", skip_launch=True)
    past_ms = int(time.time() * 1000) - 1000
    tokens = {
        "garbage": "fo1_nosuchtoken",
        "expired": await platform.token_of_another("late", expires_ms=past_ms),
        "foreign": await platform.token_of_another("rival"),
    }
    for kind, token in tokens.items():
        for words in (["machine", "list"], ["machine", "run", IMAGE], ["machine", "destroy", "0" * 14, "--force"]):
            done = await platform.command(*words, "-a", APP, CADDIS_API_TOKEN=token)
            assert done.returncode != 0, (kind, words)
            said = parts_of(done.stderr)
            assert said.keys() >= {"Error", "Next"}, (kind, words, done.stderr)
            assert token not in done.stderr
            assert "mine" not in done.stderr + done.stdout
    assert [machine["name"] for machine in await api.list()] == ["mine"]
    for part in ("control", "agent", "edge@0"):
        assert not [token for token in tokens.values() if token in platform.log(part)], "I8"


async def test_a_lost_token_is_replaced_on_the_platforms_own_computer(platform: Platform) -> None:
    lost = platform.token
    (platform.directory / ".config" / "caddisfly" / "config.toml").unlink()
    refused = await platform.command("apps", "list")
    assert refused.returncode != 0
    assert "caddis new-token" in parts_of(refused.stderr)["Next"]
    replaced = await platform.command("new-token")
    assert replaced.returncode == 0, replaced.stderr
    assert platform.token != lost
    assert (await platform.command("apps", "list")).returncode == 0
    assert "admin@localhost" in (await platform.command("auth", "whoami")).stdout

    async def refused_now() -> bool:
        return (await platform.command("apps", "list", CADDIS_API_TOKEN=lost)).returncode != 0

    await eventually(refused_now, timeout_s=10, every_s=0.2)
