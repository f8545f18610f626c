"""`caddis status` of an app: what runs where, which release, and what is not as it should be."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from caddisfly.cli import apps, show, target
from caddisfly.launch.fleet.outcome import SUSPENDED
from caddisfly.model import states

if TYPE_CHECKING:
    from caddisfly.client import Client
    from caddisfly.client.calls import Json


def show_status(name: str, *, json: bool) -> None:
    """An app and its Machines."""
    from caddisfly.launch.fleet.deployed import remembered

    with target.client() as client:
        app, machines = client.apps.get(name), client.machines.list(name)
        latest, current = _release(client, name, "latest"), _release(client, name, "current")
        wanted = remembered(client, name)
    found = _troubles(name, machines, wanted)
    if json:
        told = {"release": _short(current), "latest_release": _short(latest), "scale": wanted, "troubles": found}
        show.result({**app, **told, "healthy": not found, "machines": machines})
        return
    now_ms = time.time() * 1000
    facts = {
        "name": app["name"],
        "organization": (app.get("organization") or {}).get("slug", ""),
        "status": app.get("status", ""),
        "address": app.get("url", ""),
        "release": _said(current, now_ms) if current else "",
        "image": ", ".join(sorted({apps.image_of(machine) for machine in machines})),
    }
    if latest and (current is None or latest["version"] != current["version"]):
        facts["last deploy"] = _said(latest, now_ms)
    show.pairs({name: value for name, value in facts.items() if value})
    show.line()
    _show_machines(machines, now_ms)
    if found:
        show.line()
    for trouble in found:
        show.line(f"{trouble['what']}: {trouble['why']}")
        show.line(f"    {trouble['next']}")


def _release(client: Client, app: str, version: str) -> Json | None:
    from caddisfly.client import NotFoundError

    try:
        found: Json = client.releases.get(app, version)
    except NotFoundError:
        return None
    return found


def _short(release: Json | None) -> Json | None:
    left_out = ("definition", "progress")
    return release and {name: value for name, value in release.items() if name not in left_out}


def _said(release: Json, now_ms: float) -> str:
    by = (release.get("user") or {}).get("email", "")
    ago = show.ago(apps.milliseconds(release["created_at"]), now_ms)
    text = f"v{release['version']} {release['status']}, {ago} ago{f' by {by}' if by else ''}"
    return f"{text}: {release['error']}" if release.get("error") else text


def _show_machines(machines: list[Json], now_ms: float) -> None:
    from caddisfly.launch.fleet.outcome import unhealthy

    rows = []
    for machine in sorted(machines, key=lambda one: (_group(one), str(one.get("created_at", "")))):
        metadata = (machine.get("config") or {}).get("metadata") or {}
        version = metadata.get("fly_release_version", "")
        checks = machine.get("checks") or ()
        rows.append(
            (
                _group(machine),
                machine["id"],
                f"v{version}" if version else "",
                machine.get("region", ""),
                f"{machine['state']} (last known)"
                if machine.get("host_status") in states.HOST_AWAY
                else machine["state"],
                _role(machine),
                f"{len(checks) - len(unhealthy(machine))}/{len(checks)} passing" if checks else "",
                apps.image_of(machine),
                f"{show.ago(apps.milliseconds(machine['updated_at']), now_ms)} ago",
            )
        )
    show.table(("PROCESS", "ID", "VERSION", "REGION", "STATE", "ROLE", "CHECKS", "IMAGE", "UPDATED"), rows)


def _group(machine: Json) -> str:
    return str(((machine.get("config") or {}).get("metadata") or {}).get("fly_process_group", ""))


def _role(machine: Json) -> str:
    if (machine.get("config") or {}).get("standbys"):
        return "standby"
    if SUSPENDED in ((machine.get("config") or {}).get("metadata") or {}):
        return "suspended"
    return "cordoned" if machine.get("cordoned") else ""


def _troubles(app: str, machines: list[Json], wanted: Mapping[str, Any]) -> list[dict[str, str]]:
    from caddisfly.launch.fleet.outcome import trouble

    found = []
    for machine in machines:
        why = trouble(machine)
        if why is not None:
            next = f"caddis machine why {machine['id']} -a {app}"
            found.append({"what": f"{machine['id']} is {machine['state']}", "why": why, "next": next})
    present = Counter(_group(machine) for machine in machines if _role(machine) != "standby")
    for group, rules in wanted.items():
        if present[group] < rules["count"]:
            why = f"{rules['count']} were asked for, {present[group]} are there"
            found.append({"what": group, "why": why, "next": f"caddis scale count {group}={rules['count']} -a {app}"})
    return found
