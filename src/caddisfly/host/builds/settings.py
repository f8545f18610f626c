"""What an operator can set about builds. Each field says its unit, its default and the reason for that default."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator


class BuildSettings(BaseModel):
    """Section `[builds]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(
        default=True, description="Whether this host builds. Default true; a fleet may keep builds on a few hosts."
    )
    concurrency: int = Field(
        default=1,
        ge=1,
        le=32,
        description="Builds that run at once; others wait for their turn. Default 1: on a small box two builds at once "
        "take each other's memory and end later than one after the other.",
    )
    waiting_per_organization: int = Field(
        default=20,
        ge=1,
        description="Builds of one organization that may wait. Default 20: more than a team starts by hand, and the "
        "end for a loop.",
    )
    cpu_share: int = Field(
        default=10,
        ge=1,
        le=10_000,
        description="What all builds together weigh against everything else on the host, where all Machines together "
        "have 100, and each process of the platform as well. It counts only where there is not enough for all. Default "
        "10: what serves goes first, and a build still goes on.",
    )
    cpus: float = Field(
        default=0,
        ge=0,
        description="CPUs that one build may use at most. Default 0: as many as there are, because what idles is free.",
    )
    memory_mb: int = Field(
        default=2048,
        ge=128,
        description="MiB of memory of one build, buildah and the page cache of its files included; no swap. Default "
        "2048: enough for compilers and npm. It is not taken from what Machines are promised.",
    )
    pids: int = Field(
        default=1024,
        ge=32,
        description="Processes and threads in one build. Default 1024: room for `make -j`, the end for a fork bomb.",
    )
    disk_gb: int = Field(
        default=20,
        ge=1,
        description="GiB of one build: base images, layers, cache mounts, context and what the steps write. A hard "
        "limit; sparse, so only what is written counts. Default 20. Another value begins with empty caches.",
    )
    cache_gb: int = Field(
        default=8,
        ge=1,
        description="GiB that one app's cache (layers and cache mounts) may keep between two builds; the oldest goes "
        "first. Default 8, so that a build has at least the rest of `disk_gb` to work in.",
    )
    caches_gb: int = Field(
        default=40,
        ge=1,
        description="GiB of all caches together; that of the app whose last build is longest ago goes first. Also the "
        "size of the file system they lie on, cut to 80 % of what the disk has free when it is made. Default 40.",
    )
    min_free_mb: int = Field(
        default=2048,
        ge=0,
        description="MiB. A build is stopped when the host's disk has less than this. Default 2048, twice the floor "
        "of Machines: a build ends before it costs a Machine anything.",
    )
    timeout_s: float = Field(
        default=1800,
        gt=0,
        description="Seconds, from its turn to its end. Default 1800: a large native compile; who waits longer hangs.",
    )
    log_size_mb: int = Field(
        default=16, ge=1, description="MiB of one build's log; what comes after is dropped, and said. Default 16."
    )
    kept: int = Field(
        default=50, ge=1, description="Ended builds of one app that stay readable, with their logs. Default 50."
    )
    forget_every_s: float = Field(
        default=300,
        gt=0,
        description="Seconds between two looks at which apps were deleted, whose caches, logs and records then go. "
        "Default 300: it is about space, and other tenants cannot see them anyway.",
    )
    env: dict[str, str] = Field(
        default_factory=dict,
        description="Environment of every step, such as HTTP_PROXY or PIP_INDEX_URL. Not part of the image. Default: "
        "none.",
    )
    mounts: tuple[str, ...] = Field(
        default=(),
        description="Files and directories of the host that every step sees, read-only, as `/path` or "
        "`/path:/path/inside`, such as /etc/pip.conf or certificates. Not part of the image. Default: none.",
    )
    forward: tuple[str, ...] = Field(
        default=(),
        description="Services on the host's loopback that steps may reach at 127.0.0.1, as `port` or `port:port on the "
        "host`, such as a package proxy. Everybody who may build may use them. Default: none; the platform's registry "
        "and mirrors on loopback are always there.",
    )
    use_credentials: bool = Field(
        default=False,
        description="Whether base images are pulled with `[images] credentials`. Default false: a buildah before 1.35 "
        "lets who writes a Dockerfile read the files of the sandbox (CVE-2024-1753), and these would be among them.",
    )
    dns: tuple[str, ...] = Field(
        default=(), description="Name servers for steps. Default: those of Machines (`[host] nameservers`)."
    )

    @field_validator("mounts")
    @classmethod
    def _absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for mount in value:
            source, _, target = mount.partition(":")
            if not source.startswith("/") or not (target or source).startswith("/") or ":" in target:
                raise ValueError(f"{mount!r} is not /path or /path:/path/inside")
        return value

    @field_validator("forward")
    @classmethod
    def _ports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            _port_pair(text)
        return value

    @field_validator("env")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not name.isidentifier() or "\n" in text:
                raise ValueError(f"{name!r} is not the name of a variable, or its value has more than one line")
        return value

    @property
    def forwarded(self) -> dict[int, int]:
        """Port inside → port on the host."""
        return dict(_port_pair(text) for text in self.forward)

    @property
    def mounted(self) -> dict[Path, str]:
        """Path on the host → path inside."""
        return {Path(source): target or source for source, _, target in (text.partition(":") for text in self.mounts)}


def _port_pair(text: str) -> tuple[int, int]:
    inside, _, outside = text.partition(":")
    ports = (inside, outside or inside)
    if not all(port.isascii() and port.isdecimal() and 0 < int(port) < 65536 for port in ports):
        raise ValueError(f"{text!r} is not a port or two ports with a colon between them")
    return int(ports[0]), int(ports[1])
