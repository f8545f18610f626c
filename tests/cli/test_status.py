"""`caddis status`, `open`, `checks list` and what they say of apps that are not as they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caddisfly.launch.fleet.outcome import trouble
from caddisfly.pytest_plugin import CaddisApp
from tests.cli.conftest import Outcome
from tests.cli.deployed import machine, release, standby
from tests.cli.machines import exited
from tests.cli.machines import machine as shown
from tests.client.conftest import Api

Caddis = Callable[..., Outcome]


def test_status_says_what_runs_where_and_since_which_release(
    caddis_on_dev: Caddis, caddis_app: CaddisApp, tmp_path: Path
) -> None:
    app = caddis_app.name
    release(caddis_app)
    web, worker = machine(caddis_app, metadata=labels("web", "1")), machine(caddis_app, "worker", region="fra")
    standby(caddis_app, worker)
    (tmp_path / "fly.toml").write_text(f"app = '{app}'")
    said = caddis_on_dev("status")
    assert said.code == 0, said.err
    assert "v1 complete" in said.out
    rows = [line.split("\t") for line in said.out.splitlines() if "\t" in line]
    assert rows[0][:7] == ["PROCESS", "ID", "VERSION", "REGION", "STATE", "ROLE", "CHECKS"]
    assert rows[1][:6] == ["web", web["id"], "v1", "ams", "started", ""]
    assert [row[5] for row in rows[1:]] == ["", "", "standby"]
    told = caddis_on_dev("status", "-a", app, "--json").json
    assert (told["healthy"], told["release"]["version"], len(told["machines"])) == (True, 1, 3)
    assert "definition" not in told["release"]


def test_status_says_what_is_wrong_and_what_to_do(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    app, releases = caddis_app.name, caddis_app.client.releases
    broken = machine(
        caddis_app, wait="failed", restart={"policy": "no"}, metadata=labels("web", "1", act="start-error")
    )
    made = releases.create(app)
    releases.update(app, made["version"], made["nonce"], status="failed", error="web did not come up")
    caddis_app.client.scale.change(app, {"web": {"count": 1}, "worker": {"count": 2}})
    said = caddis_on_dev("status", "-a", app)
    assert said.code == 0, said.err
    assert "v1 failed" in said.out
    assert "web did not come up" in said.out
    assert f"caddis machine why {broken['id']} -a {app}" in said.out
    assert "worker: 2 were asked for, 0 are there" in said.out
    told = caddis_on_dev("status", "-a", app, "--json").json
    assert (told["healthy"], told["release"], len(told["troubles"])) == (False, None, 2)


def labels(group: str, version: str, *, act: str = "") -> dict[str, str]:
    found = {"fly_platform_version": "v2", "fly_process_group": group, "fly_release_version": version}
    return {**found, "caddis-dev": act} if act else found


FAILING = {"name": "alive", "status": "critical", "output": "refused\x1b[2J", "updated_at": "2026-11-22T23:00:01Z"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"state": "stopped", "events": [exited(0)]}, None),
        ({"state": "stopped", "events": [exited(3)]}, "exit code 3"),
        ({"state": "stopped", "events": [exited(130, requested_stop=True)]}, None),
        ({"state": "failed", "events": [exited(137, oom_killed=True)]}, "out of memory"),
        ({"host_status": "unreachable"}, "host does not answer"),
        ({"state": "restarting"}, "started again"),
        ({"checks": [FAILING]}, "alive is critical: refused [2J"),
        ({"cordoned": True}, "cordoned"),
        ({"state": "stopped", "cordoned": True}, None),
    ],
)
def test_what_is_wrong_with_a_machine(changes: dict[str, Any], said: str | None) -> None:
    found = trouble(shown(**changes))
    assert (found is None) if said is None else (found is not None and said in found)


def test_checks_are_listed_without_what_a_terminal_obeys(api: Api, caddis: Caddis) -> None:
    passing = {**FAILING, "name": "ready", "status": "passing", "output": "200 OK"}
    api.on("GET", "/v1/apps/hello/machines", (200, [shown(checks=[FAILING, passing])]))
    rows = [line.split("\t") for line in caddis("checks", "list", "-a", "hello").out.splitlines()]
    assert rows[0] == ["NAME", "STATUS", "MACHINE", "LAST UPDATED", "OUTPUT"]
    assert [(row[0], row[1], row[4]) for row in rows[1:]] == [
        ("alive", "critical", "refused [2J"),
        ("ready", "passing", "200 OK"),
    ]
    only = caddis("checks", "list", "-a", "hello", "--check-name", "ready", "--json").json
    assert [one["name"] for one in only] == ["ready"]


def test_open_prints_where_the_app_is(api: Api, caddis: Caddis) -> None:
    service = {"internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}
    api.on("GET", "/v1/apps/hello", (200, {"name": "hello", "url": "http://hello.localhost:8080"}))
    api.on("GET", "/v1/apps/hello/machines", (200, [shown(config={"image": "x", "services": [service]})]))
    assert caddis("open", "-a", "hello").out == "http://hello.localhost:8080/\n"
    assert caddis("apps", "open", "/admin", "-a", "hello", "-j").json == {"url": "http://hello.localhost:8080/admin"}
    api.on("GET", "/v1/apps/hello/machines", (200, [shown()]))
    refused = caddis("open", "-a", "hello")
    assert (refused.code, "none of its Machines has a service" in refused.err) == (1, True)


def test_images_are_updated_to_what_their_tag_means_now(api: Api, caddis: Caddis) -> None:
    """Simulated images never move, so this is on a server that answers as it is told."""
    reference = {
        "registry": "docker.io",
        "repository": "library/hello",
        "tag": "1",
        "digest": "sha256:old",
        "labels": None,
    }
    machines = [shown(image_ref=reference), shown(id="2", image_ref={**reference, "tag": ""})]
    newest = {**reference, "digest": "sha256:new", "reference": "docker.io/library/hello:1@sha256:new"}
    path = f"/v1/apps/hello/machines/{machines[0]['id']}"
    api.on("GET", "/v1/apps/hello/machines", (200, machines))
    api.on("GET", "/v1/apps/hello/image", (200, newest))
    api.on("POST", f"{path}/lease", (201, {"status": "success", "data": {"nonce": "n0nce"}}))
    api.on("DELETE", f"{path}/lease", (200, {"status": "success", "data": {"ok": True}}))
    api.on("GET", path, (200, machines[0]))
    api.on("POST", path, (200, machines[0]))
    api.on("GET", f"{path}/wait", (200, {"ok": True}))
    assert "Newer images for 1 Machine" in caddis("image", "show", "-a", "hello").err
    refused = caddis("image", "update", "-a", "hello")
    assert (refused.code, "add --yes" in refused.err) == (2, True)
    done = caddis("image", "update", "-a", "hello", "--yes")
    assert done.code == 0, done.err
    assert "2 is left as it is: its image is known by its digest alone" in done.err
    (sent,) = (request for request in api.asked(path) if request.method == "POST")
    assert sent.body["config"]["image"] == newest["reference"]
    assert sent.headers["fly-machine-lease-nonce"] == "n0nce"
