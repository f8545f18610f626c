"""An app with a release and Machines, as a deploy leaves it behind, on a platform with simulated hosts."""

from __future__ import annotations

from typing import Any

from caddisfly.launch import config
from caddisfly.pytest_plugin import CaddisApp

FILE = """
primary_region = "ams"
[processes]
web = "serve"
worker = "work"
[[vm]]
size = "shared-cpu-2x"
processes = ["web"]
"""


def release(app: CaddisApp, text: str = FILE, *, image: str = "nginx") -> dict[str, Any]:
    releases = app.client.releases
    made = releases.create(app.name, image=image, definition=dict(config.text(text).definition))
    done: dict[str, Any] = releases.update(app.name, made["version"], made["nonce"], status="complete")
    return done


def machine(
    app: CaddisApp, group: str = "web", *, text: str = FILE, region: str = "ams", wait: str = "started", **more: Any
) -> dict[str, Any]:
    wire = config.machine_config(config.text(text), group, image="nginx")
    wire |= {"guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}, **more}
    made = app.client.machines.create(app.name, wire, region=region, skip_launch=wait == "stopped")
    app.client.machines.wait(app.name, made["id"], wait)
    return made


def standby(app: CaddisApp, of: dict[str, Any]) -> dict[str, Any]:
    env = {"FLY_STANDBY_FOR": of["id"]}
    return machine(app, "worker", wait="stopped", standbys=[of["id"]], env=env)


def ids(app: CaddisApp) -> set[str]:
    return {one["id"] for one in app.machines()}
