"""Machines as the API shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.cli.conftest import Outcome

Caddis = Callable[..., Outcome]
ID = "148e21ea7e46e8"
MACHINES = "/v1/apps/hello/machines"
MACHINE = f"{MACHINES}/{ID}"


def machine(**changes: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "name": "hello-1",
        "state": "started",
        "region": "lab",
        "instance_id": "01HEPA",
        "private_ip": "fdaa::2",
        "created_at": "2026-11-22T23:00:00Z",
        "updated_at": "2026-11-22T23:00:01Z",
        "config": {"image": "hello", "guest": {"cpus": 1, "cpu_kind": "shared", "memory_mb": 256}},
        "image_ref": {"repository": "library/hello", "tag": "latest"},
        "events": [],
        **changes,
    }


def exited(code: int, **changes: Any) -> dict[str, Any]:
    left = {"exit_code": code, "oom_killed": False, "error": "", **changes}
    return {"type": "exit", "status": "stopped", "source": "flyd", "timestamp": 1, "request": {"exit_event": left}}


def event(type: str, status: str, source: str = "user", **more: Any) -> dict[str, Any]:
    return {"type": type, "status": status, "source": source, "timestamp": 1, **more}
