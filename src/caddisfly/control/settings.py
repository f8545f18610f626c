"""What an operator can set about control. Each field says its unit, its default and the reason for that default."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from caddisfly.control.placement.isolation import IsolationSettings


class ControlSettings(BaseModel):
    """Settings of one control process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen_host: str = Field(
        default="127.0.0.1",
        description="Address that the API listens on. Loopback, for it speaks plain HTTP: the edge puts TLS before it.",
    )
    listen_port: int = Field(
        default=4280,
        ge=0,
        le=65535,
        description="TCP port of the API; 0 takes a free one. 4280 is where Fly serves it inside the private network.",
    )
    data_directory: Path = Field(
        default=Path("/var/lib/caddisfly/control"),
        description="Where the SQLite file is kept when `database_url` is empty. `caddis up` passes its own.",
    )
    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="`postgresql+psycopg://user:password@host/name`, or `sqlite:///path`. Empty: SQLite in "
        "`data_directory`, which needs no server and is enough for one control. Secret, for the password in it.",
    )
    database_pool_size: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Connections to the database. Four keep one core busy; each costs PostgreSQL a process.",
    )
    database_timeout_s: float = Field(
        default=5.0,
        gt=0,
        description="Seconds that a request waits for the database, a held write lock included, before it is told to "
        "come back (503). Clients of Fly try again for a minute, so a short answer is the kinder one.",
    )
    bus_url: str = Field(default="nats://127.0.0.1:4222", description="NATS. The default is what `caddis up` starts.")
    bus_token: SecretStr = Field(
        default=SecretStr(""), description="Token for the bus. `caddis up` makes one at first run."
    )
    secrets_key: SecretStr = Field(
        default=SecretStr(""),
        description="What seals the apps' secrets, 32 bytes in base64. `caddis up` passes what [platform] "
        "secrets_key_file holds. Empty: secrets are refused.",
    )
    region: str = Field(
        default="local",
        min_length=1,
        description="Region that this control is in: Machines go there when a client names none.",
    )
    isolation: IsolationSettings = Field(
        default=IsolationSettings(), description="As in section [isolation], which is where to set it."
    )
    domain: str = Field(
        default="",
        description="As in [platform]: an image of registry.<domain> or registry.fly.io belongs to the app it names. "
        "Empty: there is no such registry.",
    )
    registry_public_url: str = Field(
        default="",
        description="URL at which clients push images and folders to build. Default: the registry's own address, for "
        "those who work on this box; for others the edge leads https://registry.<domain> to it. Empty: there is none.",
    )
    apps_public_url: str = Field(
        default="",
        description="URL at which people open an app, with <app> for its name. Default: the edge's first address, for "
        "those who work on this box. Empty: there is no edge.",
    )
    bid_timeout_s: float = Field(
        default=2.0,
        gt=0,
        description="Seconds that hosts have to bid for a new Machine. They answer within milliseconds, and the market "
        "closes as soon as all have. Only a host that just died makes a create wait this long, while a shorter time "
        "would refuse Machines on a box that is merely busy.",
    )
    read_your_writes_timeout_s: float = Field(
        default=2.0,
        gt=0,
        description="Seconds that a call waits until this process's copy of the catalog has its change. The change is "
        "durable on the host by then, so after that time the call is answered anyway.",
    )
    host_silence_s: float = Field(
        default=15.0,
        gt=0,
        description="Seconds without a heartbeat after which a host counts as unreachable: three to five lost beats.",
    )
    standby_after_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds that a host must have been unreachable, beyond `host_silence_s`, before standbys of its "
        "Machines are started. An agent that is started anew is back within a few; what ran on the lost host may run "
        "on, so a shorter time buys doubled work.",
    )
    token_cache_s: float = Field(
        default=2.0,
        ge=0,
        description="Seconds that a verified token is remembered. One revoked through another control works here for "
        "at most this long, one revoked through this control not at all. 0 asks the database on each request.",
    )
    app_cache_s: float = Field(
        default=1.0,
        ge=0,
        description="Seconds that the record of an app is remembered, so that a burst of calls costs one query.",
    )
    apps_reload_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds between two readings of all apps from SQL. It is how the catalog learns what another "
        "control changed, and when the deletion of an app that was interrupted goes on.",
    )
    max_body_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1024,
        description="Bytes of a request's body. `files` in a config are the largest thing sent; the bus carries 8 MB.",
    )
    log_hold_s: float = Field(
        default=1.5,
        ge=0,
        description="Seconds that a poll for new log lines is held when there are none: flyctl polls 7 times a second.",
    )
    shutdown_grace_s: int = Field(
        default=5, ge=0, description="Seconds that requests under way have to finish after SIGTERM. Waits are cut off."
    )

    def database(self) -> str:
        """The database's URL, with the driver that this code is written for."""
        url = self.database_url.get_secret_value() or f"sqlite:///{self.data_directory / 'control.db'}"
        scheme, separator, rest = url.partition("://")
        driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
        return f"{driver.get(scheme, scheme)}{separator}{rest}"
