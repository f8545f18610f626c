"""A plan in words: before anything happens, and for `--plan`. Pure.

A stray fly.toml has been deployed to the wrong app (superfly/flyctl#1576). So the first lines name the app, the file
and the image, whatever comes after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from caddisfly.launch.config import running
from caddisfly.launch.config.running import metadata
from caddisfly.launch.deploy.fleet import pinned
from caddisfly.launch.deploy.plan import Plan, Update
from caddisfly.model.differences import between

_STRATEGIES = {
    "rolling": "one after the other, as many at once as may be down together",
    "immediate": "all at once, without waiting whether they are well",
    "canary": "one more Machine tries it first, then one after the other",
    "bluegreen": "new Machines beside the old ones, which go when the new ones are well",
}
_LABELS = ("fly_release_id", "fly_release_version", "fly_flyctl_version")


def lines(plan: Plan, *, image: str, files: tuple[str, ...], configs: bool = False) -> list[str]:
    """`configs` adds how each Machine's config changes."""
    said = [f"App: {plan.app}", f"Config: {', '.join(files) or 'that of the last release'}", f"Image: {image}"]
    if plan.updates:
        said.append(f"Strategy: {plan.strategy}: {_STRATEGIES[plan.strategy]}")
    said.append("This deployment will:")
    said += [f" * {deed}" for deed in _deeds(plan)] or [" * do nothing: there is no Machine to change"]
    said += [f"Note: {choice}" for choice in plan.choices]
    if plan.skipped:
        said.append(f"Note: {', '.join(plan.skipped)} were not made by Launch, and are left alone")
    said += [f"Warning: {warning}" for warning in plan.warnings]
    if configs:
        for update in plan.updates:
            said += _config(update)
    return said


def to_wire(plan: Plan, *, image: str) -> dict[str, Any]:
    return {
        "app": plan.app,
        "files": list(plan.config.sources),
        "image": image,
        "strategy": plan.strategy,
        "first": plan.first,
        "release_command": list(plan.release_command),
        "update": [
            {
                "id": update.id,
                "group": update.group,
                "state": update.state,
                "region": update.machine.get("region", ""),
                "start": update.warm,
                "probe": update.probe,
                "changes": changes(update),
            }
            for update in plan.updates
        ],
        "create": [
            {"group": one.group, "region": one.region, "standby": one.standby, "config": one.config}
            for one in plan.creations
        ],
        "destroy": [{"id": one.id, "group": one.group, "why": one.why} for one in plan.removals],
        "notes": list(plan.choices),
        "warnings": list(plan.warnings),
        "unmanaged": list(plan.skipped),
    }


def changes(update: Update) -> list[str]:
    """How its config changes, but for the image, which is said once, and the labels of the release."""
    return between(_shown(update.machine.get("config") or {}), _shown(update.config))


def _shown(config: Mapping[str, Any]) -> dict[str, Any]:
    written = running.written({**config, "image": "image"})
    kept = {key: value for key, value in (written.get("metadata") or {}).items() if key not in _LABELS}
    return {**{key: value for key, value in written.items() if key != "image"}, "metadata": kept}


def _deeds(plan: Plan) -> list[str]:
    deeds = [f"remove {one.id}: {one.why}" for one in plan.removals if one.leftover]
    if plan.release_command:
        deeds.append(f"run the release command on a Machine of its own: {' '.join(plan.release_command)}")
    if plan.seed_command:
        deeds.append(f"run the seed command, this once: {' '.join(plan.seed_command)}")
    for group in plan.groups:
        updates = plan.updates_of(group)
        warm, probed = sum(one.warm for one in updates), sum(one.probe for one in updates)
        standbys = sum(one.standby for one in updates)
        asleep = len(updates) - warm - standbys
        if warm:
            deeds.append(f"update {_machines(warm, group)}")
        if asleep:
            how = "after one of them was started to see whether it works" if probed else "without starting them"
            deeds.append(f"update {_machines(asleep, group)} that sleep, {how}")
        if standbys:
            deeds.append(f'update {standbys} standby{"s" if standbys > 1 else ""} of "{group}"')
        where = Counter(one.region for one in plan.creations if one.group == group and not one.standby)
        for region, count in where.items():
            deeds.append(f"create {_machines(count, group)}" + (f" in {region}" if region else ""))
        if any(one.standby for one in plan.creations if one.group == group):
            deeds.append(f'create 1 standby for "{group}"')
    gone = Counter((one.group, one.why) for one in plan.removals if not one.leftover)
    deeds += [f"destroy {_machines(count, group)} at the end: {why}" for (group, why), count in gone.items()]
    return deeds


def _machines(count: int, group: str) -> str:
    return f'{count} "{group}" machine{"" if count == 1 else "s"}'


def _config(update: Update) -> list[str]:
    found = changes(update)
    release = metadata(update.machine).get("fly_release_version", "")
    version = f", v{release}" if release else ""
    head = f"{update.id} [{update.group}] ({update.machine.get('region', '')}, {update.state}{version})"
    return [
        f"{head}:",
        *(f"    {one}" for one in found or ["its config stays"]),
        f"    it runs {pinned(update.machine)}",
    ]
