"""What an operator can set about the registry. Each field says its unit, its default and the reason for it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

_GIB = 1024**3


class RegistrySettings(BaseModel):
    """Section `[registry]`. What `up` knows (paths, bus, domain) is filled in by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(
        default="127.0.0.1",
        description="Address that the registry listens on. Default 127.0.0.1: it speaks plain HTTP, and the edge leads "
        "registry.<domain> to it.",
    )
    port: int = Field(
        default=5080,
        ge=1,
        le=65535,
        description="TCP port of the registry. Default 5080: 5000, Docker's, may already be somebody else's registry.",
    )
    url: str = Field(
        default="",
        pattern=r"^$|^http://[^/]+$",
        description="Where the platform's registry already is, such as http://10.0.0.5:5080. Default empty: `caddis "
        "up` starts one on this computer.",
    )
    registry_secret: SecretStr = Field(
        default=SecretStr(""), description="By which hosts show that they are hosts. `caddis up` makes it of the bus's."
    )
    store: Path = Field(
        default=Path("/var/lib/caddisfly/host/images/fs"),
        description="Mount point of the image store; the registry lies in it, so that images are taken in without a "
        "copy. Default: where this host's agent has it.",
    )
    bus_url: str = Field(default="nats://127.0.0.1:4251", description="Where the bus is. Default: this box.")
    bus_token: SecretStr = Field(default=SecretStr(""), description="Token of the bus. `caddis up` makes one.")
    access_cache_s: float = Field(
        default=5.0,
        ge=0,
        description="Seconds that a permission is remembered. Default 5: one push is dozens of requests. A token that "
        "is revoked works here for at most so much longer.",
    )
    max_blob_bytes: int = Field(
        default=16 * _GIB,
        gt=0,
        description="Bytes of one blob. Default 16 GiB: twice what Fly takes as a whole image, room for models.",
    )
    max_uploads: int = Field(
        default=64,
        ge=1,
        description="Uploads begun and not finished in one repository. Default 64: Docker pushes five at once.",
    )
    upload_expiry_s: float = Field(
        default=86_400,
        gt=0,
        description="Seconds without a byte, after which an upload is forgotten. Default a day: a laptop may sleep.",
    )
    grace_s: float = Field(
        default=86_400,
        gt=0,
        description="Seconds that untagged manifests, and blobs that no manifest names, are kept after somebody last "
        "asked for them. Default a day: longer than any push takes.",
    )
    collect_every_s: float = Field(
        default=3_600, gt=0, description="Seconds between two collections of garbage. Default an hour."
    )
    min_free_mb: int = Field(
        default=1024,
        ge=0,
        description="MiB. Uploads are refused when the store's disk has less than this: a full store would take "
        "Machines with it, a refused push only itself. Default: as in [images].",
    )

    @property
    def address(self) -> str:
        """`host:port` to knock at, here or where `url` says."""
        if not self.url:
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
            return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        place = self.url.removeprefix("http://")
        return place if ":" in place.rpartition("]")[2] else f"{place}:80"
