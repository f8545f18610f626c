"""What an operator can set about images. Each field says its unit, its default and the reason for that default."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

GIB = 1024**3


class Credentials(BaseModel):
    """A user name and a password (or token) for one registry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    username: str
    """`<token>` says that `password` is an identity token, as Docker's credential helpers do."""
    password: SecretStr


class ImageSettings(BaseModel):
    """Settings of the image store of one host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store_size_gb: int = Field(
        default=100,
        ge=1,
        description="GiB. Upper bound of the store, images and writable roots together. The file is sparse, so a large "
        "number costs nothing until it is used; at creation it is cut to 80 % of what the disk has free.",
    )
    store_filesystem: Literal["auto", "loop", "directory"] = Field(
        default="auto",
        description="`loop` keeps the store in its own XFS inside one file, `directory` in a plain directory, `auto` "
        "tries the first and falls back to the second. An own XFS, because it clones files in O(1) and because "
        "unpacking on a journal-less ext4 was measured ten times slower.",
    )
    min_free_mb: int = Field(
        default=1024,
        ge=0,
        description="MiB. New work is refused when the disk under the store has less than this: a sparse store that "
        "hits the end of its disk would take running Machines with it, a refused pull only itself.",
    )
    max_images_gb: float = Field(
        default=0,
        ge=0,
        description="GiB of layers that may lie here. Above it the images that were not started for the longest time "
        "go; one that a Machine has, running or stopped, and one that was imported or pulled by the operator never "
        "does. 0: no limit but the store's own, at which the same happens.",
    )
    collect_grace_s: float = Field(
        default=60,
        ge=0,
        description="Seconds for which content stays that a name was just resolved to: a Machine is about to have it.",
    )
    max_layer_bytes: int = Field(
        default=8 * GIB,
        gt=0,
        description="Bytes, compressed and again uncompressed, of one layer. 8 GiB is what Fly accepts as a whole "
        "image; raise it for images with models inside.",
    )
    max_entries: int = Field(
        default=500_000,
        gt=0,
        description="Files, directories and links in one layer. The largest real layers (node_modules, texlive) have "
        "about 200,000; a million empty files is an attack on inodes.",
    )
    unpack_timeout_s: float = Field(
        default=600,
        gt=0,
        description="Seconds, wall clock, for one layer. A 166 MB layer takes two; ten minutes is a full 8 GiB layer "
        "on a slow disk.",
    )
    unpack_memory_mb: int = Field(
        default=1024,
        ge=128,
        description="MiB of address space of the extractor. It needs about 60 and a zstd window of up to 128.",
    )
    keep_layer_blobs: bool = Field(
        default=False,
        description="Whether compressed layers stay after unpacking. Off, because a started Machine needs only the "
        "unpacked form and the pair would cost half as much disk again.",
    )
    insecure_registries: frozenset[str] = Field(
        default=frozenset(),
        description="`host` or `host:port` of registries that are asked over plain http. Anything but loopback on "
        "http can be read and changed on the way (digests protect only references that have one).",
    )
    local_registries: bool = Field(
        default=False,
        description="Whether any registry on the host's own loopback or link-local addresses may be named, over plain "
        "http. Off, because tenants name images and would make the agent ask the host's private services; list the one "
        "that is meant for them in `insecure_registries`.",
    )
    private_registries: frozenset[str] = Field(
        default=frozenset(),
        description="Registries (`host` or `host:port`) and networks (`10.1.0.0/16`) inside the operator's own network "
        "that images may come from. Empty: a registry whose name leads to a private, loopback or link-local address is "
        "refused, because tenants name images and would make the agent ask what their Machines cannot reach. Mirrors, "
        "`insecure_registries` and registries in `credentials` are the operator's own words and need no entry.",
    )
    mirrors: dict[str, str] = Field(
        default_factory=dict,
        description="Registry host → base URL that is asked instead, such as `registry.fly.io` → the platform's own.",
    )
    domain: str = Field(
        default="",
        description="As in [platform]: images of registry.<domain> and registry.fly.io are those of the platform's own "
        "registry. Empty: there is none.",
    )
    registry_url: str = Field(
        default="", description="As [registry] url: where that registry is, when it is not on this host."
    )
    registry_secret: SecretStr = Field(
        default=SecretStr(""), description="By which this host shows that it is one. `caddis up` makes it of the bus's."
    )
    credentials: dict[str, Credentials] = Field(
        default_factory=dict, description="Registry host → credentials. Empty: public images only."
    )
    download_concurrency: int = Field(
        default=3, ge=1, le=32, description="Layers downloaded at once, of all images together. Docker's number."
    )
    connect_timeout_s: float = Field(
        default=10, gt=0, description="Seconds to reach a registry. A create waits for it, so not minutes."
    )
    resolve_timeout_s: float = Field(
        default=30,
        gt=0,
        description="Seconds to turn a name into content, all attempts together; after that the last known "
        "content counts.",
    )
    stall_timeout_s: float = Field(
        default=30,
        gt=0,
        description="Seconds without a byte, or below `min_rate_bytes_s`, after which a download restarts.",
    )
    min_rate_bytes_s: int = Field(
        default=2048, ge=0, description="Bytes per second below which a download counts as stalled. Modems were faster."
    )
    download_timeout_s: float = Field(default=3600, gt=0, description="Seconds for one blob, all attempts together.")
    retry_attempts: int = Field(
        default=5, ge=1, le=20, description="Attempts of one request after 429, 5xx and connection errors."
    )
    retry_base_s: float = Field(
        default=0.25,
        gt=0,
        description="Seconds; the wait before attempt n is random between 0 and base·2ⁿ, at most 10 s, so that hosts "
        "that failed together do not come back together.",
    )
