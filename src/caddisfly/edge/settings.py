"""What an operator may turn on the edge, each with its unit, its default and why it is that."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

_MIB = 1024 * 1024


class EdgeSettings(BaseModel):
    """One edge worker. Every worker of a host is given the same settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bus_url: str = Field("nats://127.0.0.1:4222", description="Where the bus is.")
    bus_token: SecretStr = Field(SecretStr(""), description="The bus's token. Never logged.")
    agent_socket: Path = Field(
        Path("/run/caddisfly/agent.sock"),
        description="Unix socket of this host's agent: Machines here are woken through it, also with the bus down.",
    )
    host_id: str = Field(description="This host: its Machines are reached by IPv4, all others over 6PN.")
    region: str = Field("local", description="The region this edge stands in: ends request ids, is preferred.")

    http_listen: tuple[str, ...] = Field(
        ("127.0.0.1:8080", "[::1]:8080"),
        description="Addresses that speak plain HTTP. Loopback, because names under `localhost` lead nowhere else; "
        "with a domain of your own, say 0.0.0.0:80 and [::]:80. Port 0 takes a free one.",
    )
    external_port: int = Field(
        80, ge=1, le=65535, description="Which port of a service `http_listen` stands for, whatever port it is."
    )
    apps_domain: str = Field(
        "localhost",
        description="`<app>.<this>` leads to the app. `localhost`, since every system resolves it to itself.",
    )
    force_https: bool = Field(
        False,
        description="Whether `force_https` of services is obeyed. Not by default, for this edge does not speak HTTPS "
        "yet: alone, a redirect leads nowhere, and behind a proxy that ends TLS, round in a circle.",
    )
    registry_address: str = Field(
        "",
        description="host:port of the platform's registry: `registry.<apps_domain>` leads to it. Empty: there is none.",
    )
    backlog: int = Field(4096, ge=1, description="Connections the kernel queues: a burst to a sleeping app fits.")

    head_max_bytes: int = Field(
        65536, ge=1024, description="Bytes of request line and headers, then 431. Cookies fit, floods do not."
    )
    header_count_max: int = Field(256, ge=8, description="Header lines, then 431: each costs parsing time.")
    head_timeout_s: float = Field(
        20.0, gt=0, description="Seconds for a whole request head, then 408: a phone manages, slowloris does not."
    )
    idle_timeout_s: float = Field(
        75.0, gt=0, description="Seconds a client connection may wait for its next request; as nginx has it."
    )
    half_closed_timeout_s: float = Field(
        30.0, gt=0, description="Seconds without data, then a client that closed its sending side counts as gone."
    )
    linger_timeout_s: float = Field(
        2.0, gt=0, description="Seconds to swallow what a client still sends after its answer, so that no RST eats it."
    )

    connect_timeout_s: float = Field(5.0, gt=0, description="Seconds for one TCP connection to a Machine.")
    pool_idle_s: float = Field(
        4.0, gt=0, description="Seconds an unused connection to a Machine is kept: below the 5 s of most app servers."
    )
    pool_idle_unsafe_s: float = Field(
        1.0,
        ge=0,
        description="As pool_idle_s, for methods that must not be repeated: no second try heals a stale connection.",
    )
    pool_idle_max: int = Field(256, ge=0, description="Unused connections kept for each Machine and service.")
    replay_request_bytes: int = Field(
        10 * _MIB, ge=0, description="Body bytes of one request remembered for another try (10 MB, as Fly)."
    )
    replay_total_bytes: int = Field(
        64 * _MIB, ge=0, description="The same over all requests of a worker: past it, bodies are not remembered."
    )
    held_body_bytes: int = Field(
        65536, ge=1024, description="Body bytes read while a Machine wakes; then the client's sending is paused."
    )
    write_buffer_bytes: int = Field(
        262144, ge=4096, description="Bytes queued towards a slow peer before its source is paused."
    )

    wake_deadline_s: float = Field(
        30.0, gt=0, description="Seconds a request is held while a Machine wakes and binds its port, then 503."
    )
    boot_grace_s: float = Field(
        30.0, ge=0, description="Seconds after a start in which a refused connection means: not ready yet."
    )
    full_deadline_s: float = Field(
        10.0, ge=0, description="Seconds a request is held while every Machine is at its hard limit, then 503."
    )
    attempts_max: int = Field(90, ge=1, description="Tries for one request, as Fly: then 502.")
    autostop_pass_s: float = Field(
        240.0,
        ge=0,
        description="Seconds between two looks, a quarter more or less, at which Machines are not needed: as Fly, some "
        "minutes. Those that started since are left alone. 0: workers with this setting never decide to stop anything.",
    )
    drain_timeout_s: float = Field(
        600.0, ge=0, description="Seconds that requests under way get when the edge stops (10 min, as Fly)."
    )
