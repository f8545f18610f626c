"""Everything an operator can set, in one file, refused at start when something in it is wrong.

Each room declares its own section next to the code that reads it; this module joins them, so that there is one TOML
file and one naming scheme for the environment (`CADDIS_<SECTION>_<FIELD>`, which wins over the file). What several
rooms need to agree on (directories, region, where the bus is) is set once, in `[platform]` and `[bus]`, and handed to
every section that has a field of that name and does not set it itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from caddisfly.control.placement.isolation import IsolationSettings
from caddisfly.control.settings import ControlSettings
from caddisfly.edge.settings import EdgeSettings
from caddisfly.host.builds.settings import BuildSettings
from caddisfly.host.images.settings import ImageSettings
from caddisfly.host.registry.settings import RegistrySettings
from caddisfly.host.settings import HostSettings
from caddisfly.up import identity
from caddisfly.up.sources import Sources

DEFAULT_FILE = Path("/etc/caddisfly/caddisfly.toml")


class PlatformSettings(BaseModel):
    """Section `[platform]`: what all parts share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Field(
        default=Path("/var/lib/caddisfly"),
        description="Directory of everything that must survive a reboot. Default /var/lib/caddisfly, as the "
        "file system hierarchy standard has it.",
    )
    run_dir: Path = Field(
        default=Path("/run/caddisfly"),
        description="Directory of sockets and pid files. Default /run/caddisfly: a reboot must empty it.",
    )
    region: str = Field(
        default="lab",
        pattern=r"^[a-z]{3}$",
        description="Region code of this computer, three letters. Default lab: a box of your own.",
    )
    domain: str = Field(
        default="localhost",
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        description="Apps are served at <app>.<domain>. Default localhost: browsers resolve *.localhost to this "
        "computer without any DNS.",
    )
    secrets_key_file: Path | None = Field(
        default=None,
        description="File with the key that seals the apps' secrets: 32 bytes in base64, the same on every computer of "
        "the platform. Default: secrets-key in data_dir, made at the first start. Without it no secret can be read.",
    )
    edge_workers: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Edge processes. Default 0: one per core, because one process uses one core.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged. Default info: what happened, not how."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Form of a log line. Default text, for people; json for a log store."
    )
    log_size_mb: int = Field(
        default=16,
        ge=1,
        description="A part's log file is rotated at this size in MiB; one older file is kept. Default 16.",
    )


class BusSettings(BaseModel):
    """Section `[bus]`: NATS, our own on this computer or one that a fleet shares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(
        default="",
        pattern=r"^$|^(nats|tls)://",
        description="Where a NATS with JetStream already is, such as nats://10.0.0.5:4222. Default empty: `caddis up` "
        "starts one on this computer.",
    )
    token: SecretStr = Field(
        default=SecretStr(""),
        description="Token of the bus. Default empty: made at the first start and kept in the data directory.",
    )
    host: str = Field(
        default="127.0.0.1",
        description="Address that our own bus listens on. Default 127.0.0.1: nothing outside needs it on one box.",
    )
    port: int = Field(
        default=4251,
        ge=1,
        le=65535,
        description="TCP port of our own bus. Default 4251: NATS's own 4222 may already be somebody else's NATS.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All sections, complete: nothing is left to be filled in."""

    source: Path | None
    """The file it came from, if any."""
    platform: PlatformSettings
    control: ControlSettings
    host: HostSettings
    images: ImageSettings
    builds: BuildSettings
    registry: RegistrySettings
    edge: EdgeSettings
    bus: BusSettings
    isolation: IsolationSettings
    bus_token: str = field(repr=False)

    @property
    def workers(self) -> int:
        return self.platform.edge_workers or os.cpu_count() or 1

    @property
    def own_bus(self) -> bool:
        return not self.bus.url

    @property
    def own_registry(self) -> bool:
        return not self.registry.url

    @property
    def bus_url(self) -> str:
        return self.bus.url or f"nats://{self.bus.host}:{self.bus.port}"

    def section(self, name: str) -> BaseModel:
        value: BaseModel = getattr(self, name)
        return value


SECTIONS: Mapping[str, type[BaseModel]] = {
    "platform": PlatformSettings,
    "control": ControlSettings,
    "host": HostSettings,
    "images": ImageSettings,
    "builds": BuildSettings,
    "registry": RegistrySettings,
    "edge": EdgeSettings,
    "bus": BusSettings,
    "isolation": IsolationSettings,
}


def load(config: Path | None = None, *, environment: Mapping[str, str] | None = None) -> Settings:
    """Read file and environment, fill in what is shared. Makes the host's id and bus token if there are none yet.

    Raises `InvalidArgument` that names file, line, key, what was given and what is allowed.
    """
    environment = os.environ if environment is None else environment
    sources = Sources.read(_file(config, environment), environment, SECTIONS)
    platform = _parse(PlatformSettings, "platform", sources, {})
    bus = _parse(BusSettings, "bus", sources, {})
    sources.check()
    token = bus.token.get_secret_value() or identity.bus_token(platform.data_dir)
    shared = _shared(platform, bus, token)
    builds = _parse(BuildSettings, "builds", sources, {})
    host = _parse(HostSettings, "host", sources, {**shared, "data_dir": platform.data_dir / "host"})
    store = (host.data_dir if host else platform.data_dir / "host") / "images" / "fs"
    registry = _parse(RegistrySettings, "registry", sources, {**shared, "store": store})
    if registry:
        shared |= {"registry_url": registry.url, "registry_address": registry.address}
        shared["registry_public_url"] = registry.url or f"http://{registry.address}"
    edge = _parse(EdgeSettings, "edge", sources, {**shared, "data_dir": platform.data_dir / "edge"})
    if edge:
        shared["apps_public_url"] = _apps_url(edge)
    isolation = _parse(IsolationSettings, "isolation", sources, {})
    own = {"data_directory": platform.data_dir / "control", **({"isolation": isolation} if isolation else {})}
    control = _parse(ControlSettings, "control", sources, {**shared, **own})
    images = _parse(ImageSettings, "images", sources, shared)
    sources.check()
    return Settings(
        source=sources.file,
        platform=platform,
        control=control,
        host=host,
        images=images,
        builds=builds,
        registry=registry,
        edge=edge,
        bus=bus,
        isolation=isolation,
        bus_token=token,
    )


def _file(config: Path | None, environment: Mapping[str, str]) -> Path | None:
    if config is not None:
        return config
    if environment.get("CADDIS_CONFIG"):
        return Path(environment["CADDIS_CONFIG"])
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _shared(platform: PlatformSettings, bus: BusSettings, token: str) -> dict[str, Any]:
    """By field name, for every section that has such a field."""
    return {
        "run_dir": platform.run_dir,
        "agent_socket": platform.run_dir / "agent.sock",
        "region": platform.region,
        "domain": platform.domain,
        "apps_domain": platform.domain,
        "bus_url": bus.url or f"nats://{bus.host}:{bus.port}",
        "bus_token": SecretStr(token),
        "secrets_key": SecretStr(identity.secrets_key(platform.data_dir, platform.secrets_key_file)),
        "registry_secret": SecretStr(identity.registry_secret(token)),
        "host_id": identity.host_id(platform.data_dir),
        "host_name": socket.gethostname(),
    }


def _apps_url(edge: EdgeSettings) -> str:
    port = edge.http_listen[0].rpartition(":")[2]
    return f"http://<app>.{edge.apps_domain}" + (f":{port}" if port != "80" else "")


def _parse(model: type[BaseModel], section: str, sources: Sources, shared: Mapping[str, Any]) -> Any:
    """Section `section`; what is wrong with it is kept in `sources`, so that all mistakes are told at once."""
    given = sources.section(section)
    values = {key: value for key, value in shared.items() if key in model.model_fields} | given
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for mistake in error.errors():
            sources.blame(section, mistake, model)
        return None
