"""What a launch is going to do, as one value: the app, its fly.toml, the files, what it needs. Nothing is changed yet.

A fly.toml that is kept is edited where the app's name, its region or a flag say something else, and nowhere besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from caddisfly.launch.config import AppConfig, document, loading, machine_config
from caddisfly.launch.detect import Change, Default, Settings
from caddisfly.launch.detect.settings import ONE_GB
from caddisfly.launch.plan import fly_toml, naming
from caddisfly.launch.plan.source import Source
from caddisfly.launch.plan.surroundings import Surroundings
from caddisfly.launch.plan.values import FROM_FILE, GIVEN, Value
from caddisfly.launch.plan.wishes import Wishes
from caddisfly.model.guest import Guest


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The fly.toml that is there: `text` is None when there is none, `config` when it is not to be kept."""

    path: Path
    text: str | None = None
    config: AppConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`defaults` is what the fly.toml is made of, or, of one that is kept, what changes in it."""

    directory: Path
    present: Present
    strict: bool
    pair: bool
    """Whether two Machines are made where one may fail."""
    name: Value[str]
    org: Value[str]
    region: Value[str]
    domain: str
    source: Source
    defaults: tuple[Default, ...]
    wishes: Wishes

    @property
    def settings(self) -> Settings:
        """What detection found: its secrets and services hold for a fly.toml that is kept, too."""
        return self.source.settings

    @property
    def remembered(self) -> str:
        """The framework to take again when this launch does not come to its end: where a Dockerfile is from us."""
        ours = any(change.path == "Dockerfile" for change in self.source.changes)
        return self.source.framework if ours or self.source.again else ""

    def named(self, name: Value[str]) -> Plan:
        return replace(self, name=name)

    def text(self) -> str:
        """Of the fly.toml. Raises `ConfigInvalid` when what was said makes none that is valid."""
        defaults = [
            Default(("app",), self.name.value, ""),
            *([Default(("primary_region",), self.region.value, self.region.origin)] if self.region.value else []),
            *(self._filled(one) for one in self.defaults),
        ]
        present = self.present
        if present.config is not None and present.text is not None:
            return fly_toml.edited(present.path, present.text, defaults)
        return fly_toml.made(present.path, defaults, app=self.name.value)

    def config(self) -> AppConfig:
        """What that text means. Raises `ConfigInvalid`."""
        return loading.text(
            self.text(),
            name=self.present.path.name,
            directory=self.present.path.resolve().parent,
            strict=self.strict,
        )

    def file(self) -> Change | None:
        """The fly.toml as a change; None when it says so already."""
        after = self.text()
        return None if after == self.present.text else Change(self.present.path.name, self.present.text, after)

    def rows(self) -> Iterator[tuple[str, Value[str]]]:
        """For people: what, which, and why that."""
        yield "App", self.source.title
        yield "Organization", self.org
        yield "Name", self.name
        yield "Region", self.region
        config = self.config()
        said = "vm" in _top(self.defaults)
        why = next((one.why for one in self.defaults if one.path[0] == "vm"), "") if said else ""
        for group in config.groups.names:
            guest = Guest.from_wire(machine_config(config, group).get("guest") or {})
            size = f"{guest.cpu_kind}, {guest.cpus} CPU{'s' * (guest.cpus > 1)}, {guest.memory_mb} MB"
            two = self.pair and config.services_of(group) and not config.mounts_of(group)
            count = config.placement(group).count
            size = f"{(2 if two else 1) if count is None else count} of {size}"
            yield f"Machines of {group}", Value(size, why or (FROM_FILE if config.vms else "the smallest"))
        http = config.http_service
        if http:
            why = next((one.why for one in self.defaults if one.path == ("http_service", "internal_port")), FROM_FILE)
            yield "Port", Value(str(http.internal_port), why)
        for service in self.settings.services:
            yield service.kind.capitalize(), Value(f"yours, as {', '.join(service.secrets)}", service.why)

    def notes(self) -> Iterator[str]:
        yield from self.source.notes
        config, found = self.config(), self.settings.port
        port = config.http_service.internal_port if config.http_service else None
        if port and found and port != found:
            file = self.present.path.name
            yield f"{file} says port {port}, and {self.source.title.value} listens on {found}: let both say the same"
        yield from (str(one) for one in config.warnings)

    def _filled(self, one: Default) -> Default:
        """With the app's name, and the platform's domain for Fly's."""
        if not isinstance(one.value, str) or "{app}" not in one.value:
            return one
        host = f"{self.name.value}.{self.domain}" if self.domain else f"{self.name.value}.fly.dev"
        value = one.value.replace("{app}.fly.dev", host).replace("{app}", self.name.value)
        return replace(one, value=value, why=one.why.partition("; {app}")[0])


def made(
    directory: Path,
    wishes: Wishes,
    present: Present,
    source: Source,
    around: Surroundings,
    *,
    strict: bool = True,
    pair: bool = True,
    earlier: str = "",
) -> Plan:
    """`earlier` is the name that a launch which did not come to its end has chosen. Raises `Problem`s of its parts."""
    kept = present.config
    if kept is not None and present.text is not None:
        defaults = wishes.changes(document.parse(present.text, name=str(present.path)).plain)
    else:
        settings = source.settings if source.settings.get("vm") else source.settings.plus(ONE_GB)
        said = wishes.changes(settings.document())
        gone = [one.path for one in said if one.value is None]
        defaults = settings.without(*gone).plus(*(one for one in said if one.value is not None)).defaults
    written = kept.app if kept else ""
    name = naming.chosen(given=wishes.name, generate=wishes.generate_name, written=written, directory=directory)
    if earlier and not wishes.name:
        name = Value(earlier, "as the launch before this one chose")
    return Plan(
        directory=directory,
        present=present,
        strict=strict,
        pair=pair,
        name=name,
        org=Value(wishes.org, GIVEN) if wishes.org else Value("personal", "the default"),
        region=around.region(wishes.region, kept.primary_region if kept else ""),
        domain=around.domain,
        source=source,
        defaults=defaults,
        wishes=wishes,
    )


def _top(defaults: tuple[Default, ...]) -> frozenset[str]:
    return frozenset(one.path[0] for one in defaults)
