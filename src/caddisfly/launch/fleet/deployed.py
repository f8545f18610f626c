"""What an app is meant to be: the config of its current release, and the Machines that deploys take care of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caddisfly.client import Client, NotFoundError
from caddisfly.launch.config.app_config import AppConfig
from caddisfly.launch.config.findings import ConfigInvalid
from caddisfly.launch.config.processes import ONLY_GROUP
from caddisfly.launch.config.running import Machine, managed, metadata
from caddisfly.launch.config.translate import GROUP_KEY
from caddisfly.launch.deploy.past import Past


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """`config` is None when no release is complete, or when what it was made from cannot be read: `note` says why."""

    app: str
    machines: tuple[Machine, ...] = ()
    release: Mapping[str, Any] | None = None
    image: str = ""
    """Of the release, by digest where that is known."""
    config: AppConfig | None = None
    note: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """The config's, and those that there are Machines of."""
        said = self.config.groups.names if self.config else ()
        return tuple(sorted({*said, *map(self.group_of, self.machines)}))

    def group_of(self, machine: Machine) -> str:
        """One without a group counts as one of the default group."""
        return metadata(machine).get(GROUP_KEY) or (self.config.groups.default if self.config else ONLY_GROUP)

    def of_group(self, group: str) -> tuple[Machine, ...]:
        return tuple(machine for machine in self.machines if self.group_of(machine) == group)


def deployed(client: Client, app: str) -> Deployed:
    machines = tuple(managed(client.machines.list(app)))
    try:
        release = client.releases.get(app)
    except NotFoundError:
        client.apps.get(app)  # which of the two is missing
        return Deployed(app=app, machines=machines)
    if not release.get("definition"):
        return Deployed(app=app, machines=machines, release=release, image=str(release["image_ref"]))
    try:
        past = Past.of(release)
    except ConfigInvalid as invalid:
        note = f"the config of release v{release['version']} cannot be read here, the Machines count: {invalid}"
        return Deployed(app=app, machines=machines, release=release, note=note)
    return Deployed(app=app, machines=machines, release=release, image=past.image, config=past.config)


def remembered(client: Client, app: str) -> Mapping[str, Any]:
    """`count`, `regions` and `max_per_region` of groups of which somebody said something. Fly remembers nothing."""
    try:
        groups: Mapping[str, Any] = client.scale.get(app)
    except NotFoundError:
        return {}
    return groups


def is_standby(machine: Machine) -> bool:
    """One that waits for the host of another to be lost is no capacity."""
    return bool((machine.get("config") or {}).get("standbys"))
