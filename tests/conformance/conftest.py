"""One API on two grounds: simulated hosts (`caddis dev`), and a whole platform with containers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from caddisfly.pytest_plugin import CaddisDev
from tests.faults.platform import IMAGE, Platform, running

Json = dict[str, Any]


class Fly:
    """An app of its own on a platform, and how to make Machines there that run, or end, as a case wants it."""

    def __init__(self, http: httpx.Client, *, real: bool) -> None:
        self.http, self.real = http, real
        self.app = f"case-{secrets.token_hex(4)}"
        made = http.post("/v1/apps", json={"name": self.app, "org_slug": "personal"})
        assert made.status_code == 201, made.text

    @property
    def image(self) -> str:
        return IMAGE if self.real else "nginx"

    def config(self, *, ends: int | None = None, **more: Any) -> Json:
        """Runs for ever, or `ends` with this exit code soon after its start."""
        if self.real:
            line = "exec sleep 1000" if ends is None else f"sleep 0.1; exit {ends}"
            return {"image": self.image, "init": {"exec": ["/bin/sh", "-c", line]}, **more}
        metadata = more.pop("metadata", {})
        act = "calm" if ends is None else f"exit-after=100ms,code={ends}"
        return {"image": self.image, "metadata": {**metadata, "caddis-dev": act}, **more}

    def create(self, *, ends: int | None = None, wait: str = "", body: Json | None = None, **config: Any) -> Json:
        reply = self.call("POST", "", {"config": self.config(ends=ends, **config), **(body or {})})
        assert reply.status_code == 200, reply.text
        made: Json = reply.json()
        if wait:
            self.wait(made["id"], wait)
        return made

    def started(self, **config: Any) -> str:
        return str(self.create(wait="started", **config)["id"])

    def stopped(self, **config: Any) -> str:
        id = self.started(**config)
        assert self.call("POST", f"/{id}/stop").status_code == 200
        self.wait(id, "stopped")
        return id

    def wait(self, id: str, state: str) -> Json:
        reply = self.call("GET", f"/{id}/wait?state={state}&timeout=30")
        assert reply.status_code == 200, reply.text
        found: Json = reply.json()
        return found

    def get(self, id: str) -> Json:
        reply = self.call("GET", f"/{id}")
        assert reply.status_code == 200, reply.text
        found: Json = reply.json()
        return found

    def call(self, method: str, path: str, body: Any = None, *, nonce: str = "") -> httpx.Response:
        """`path` is below the app's `/machines`."""
        headers = {"fly-machine-lease-nonce": nonce} if nonce else {}
        content = {} if body is None else {"json": body}
        return self.http.request(method, f"/v1/apps/{self.app}/machines{path}", headers=headers, **content)

    def exits(self, id: str) -> list[Json]:
        """What was said of its ends, newest first."""
        return [event["request"]["exit_event"] for event in self.get(id)["events"] if event["type"] == "exit"]

    def close(self) -> None:
        reply = self.http.delete(f"/v1/apps/{self.app}")
        assert reply.status_code in (202, 404), reply.text


@pytest.fixture(scope="package")
def platform() -> Iterator[Platform]:
    with running() as platform:
        yield platform


@pytest.fixture(scope="package", params=["simulated", "containers"])
def http(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    if request.param == "simulated":
        dev: CaddisDev = request.getfixturevalue("caddis_dev")
        url, token = dev.url, dev.token
    else:
        platform: Platform = request.getfixturevalue("platform")
        url, token = f"http://127.0.0.1:{platform.ports['control']}", platform.token
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=70, trust_env=False) as client:
        client.real = request.param == "containers"  # type: ignore[attr-defined]
        yield client


@pytest.fixture
def fly(http: httpx.Client) -> Iterator[Fly]:
    made = Fly(http, real=http.real)  # type: ignore[attr-defined]
    yield made
    made.close()


@pytest.fixture
def programs(fly: Fly) -> Fly:
    """For cases about what is inside a Machine."""
    if not fly.real:
        pytest.skip("simulated Machines have nothing inside")
    return fly
