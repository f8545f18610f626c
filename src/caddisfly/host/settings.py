"""What an operator can set about a host. Each field says its unit, its default and why that is the default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator


class HostSettings(BaseModel):
    """Section `[host]`. What `up` knows (paths, bus, ids) is filled in by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Field(
        default=Path("/var/lib/caddisfly/host"),
        description="Directory of the journal, the images and the logs. Default /var/lib/caddisfly/host: the place for "
        "state that must survive a reboot.",
    )
    run_dir: Path = Field(
        default=Path("/run/caddisfly"),
        description="Directory of sockets, bundles and pid files. Default /run/caddisfly: a reboot must empty it, "
        "because nothing it describes is running then.",
    )
    host_id: str = Field(
        default="00000001",
        pattern=r"^[0-9a-f]{8}$",
        description="8 hexadecimal digits, unique in the fleet: part of every 6PN address. `caddis up` makes one.",
    )
    host_name: str = Field(default="", description="Name for people. Default: the computer's own host name.")
    region: str = Field(
        default="lab", pattern=r"^[a-z]{3}$", description="Region code, three letters. Default lab: a box of your own."
    )
    bus_url: str = Field(default="nats://127.0.0.1:4251", description="Where the bus is. Default: this box.")
    bus_token: SecretStr = Field(default=SecretStr(""), description="Token of the bus. `caddis up` makes one.")
    secrets_key: SecretStr = Field(
        default=SecretStr(""),
        description="What opens the apps' secrets. `caddis up` passes what [platform] secrets_key_file holds.",
    )
    runtime: Literal["auto", "crun", "runc", "runsc"] = Field(
        default="auto",
        description="OCI runtime. Default auto: crun where it proves to work, as it starts Machines about twice as "
        "fast as runc; else runc. runsc (gVisor) isolates more and starts 4-5 times slower: choose it for tenants you "
        "do not trust.",
    )
    isolation: Literal["auto", "microvm", "gvisor", "container"] = Field(
        default="auto",
        description="What new Machines run in here. Default auto: a microVM where one starts at the speed of hardware, "
        "else a container; gVisor for organizations that must have it. Another value: this and nothing else. Machines "
        "keep what they were created in.",
    )
    vmm: Literal["auto", "qemu", "firecracker"] = Field(
        default="auto",
        description="What runs microVMs. Default auto: Firecracker where it is installed and works, for it starts them "
        "quickest, else QEMU.",
    )
    ipv4_pool: str = Field(
        default="10.210.0.0/16",
        description="IPv4 network for Machines on this host, not seen outside it. Default 10.210.0.0/16: rarely used, "
        "room for 65,000 Machines.",
    )
    root_size_mb: int = Field(
        default=8192,
        ge=64,
        description="Size of a Machine's writable layer in MiB, a hard limit. Default 8192, as on Fly; it is sparse, "
        "so only what is written counts.",
    )
    pids_limit: int = Field(
        default=4096,
        ge=16,
        description="Processes and threads in one Machine. Default 4096: room for a JVM, the end for a fork bomb.",
    )
    memory_reserve_mb: int = Field(
        default=512,
        ge=0,
        description="Memory in MiB kept for the platform and the system. Default 512: twice an idle platform.",
    )
    memory_overcommit: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Running Machines may be promised this many times the memory there is. Default 1.0: no Machine "
        "dies because another used what it was promised.",
    )
    cpu_overcommit: float = Field(
        default=8.0,
        gt=0,
        description="Running Machines may be promised this many times the cores there are. Default 8: idle apps cost "
        "no CPU, and shares divide what there is when all are busy.",
    )
    disk_floor_mb: int = Field(
        default=1024,
        ge=0,
        description="Below this much free disk, in MiB, no Machine is created or started. Default 1024: stops, logs, "
        "the journal must still have room.",
    )
    log_size_mb: int = Field(
        default=16,
        ge=1,
        description="A Machine's log file is rotated at this size in MiB; one older file is kept. Default 16.",
    )
    stop_grace_s: float = Field(
        default=2.0,
        ge=0,
        description="Seconds between the SIGTERM that follows an ignored stop signal, and SIGKILL. Default 2.",
    )
    destroyed_kept_s: int = Field(
        default=3600,
        ge=60,
        description="Seconds that a destroyed Machine stays readable. Default 3600: clients read exit codes from it.",
    )
    runtime_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds until a call of the OCI runtime is given up. Default 30: it takes 0.1 on a healthy host.",
    )
    suspend_drain_s: float = Field(
        default=75.0,
        ge=0,
        le=600,
        description="Seconds that a suspend under gVisor waits for the Machine's TCP connections to end, before it is "
        "stopped instead. Default 75: one that the Machine closed itself lingers for 60.",
    )
    beat_s: float = Field(
        default=2.0,
        gt=0,
        description="Seconds between two heartbeats. Default 2: control waits for 15 s of silence.",
    )
    nameservers: tuple[str, ...] = Field(
        default=(),
        description="Name servers for Machines. Default: those of the host that are not on its loopback.",
    )

    @field_validator("isolation")
    @classmethod
    def _fits_the_runtime(cls, isolation: str, info: ValidationInfo) -> str:
        runtime = info.data.get("runtime")
        if isolation == "container" and runtime == "runsc":
            raise ValueError("must not be container where runtime is runsc, which is gVisor")
        return isolation

    @property
    def socket(self) -> Path:
        """Where the edge and the operator's commands of this host reach the agent."""
        return self.run_dir / "agent.sock"
