"""What one can ask `caddis dev` for, checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from caddisfly.host.drivers.conduct import Script
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.region import KNOWN

REGIONS = "ams,fra,ord"
_HOSTS_MAX = 50


@dataclass(frozen=True, slots=True)
class HostOption:
    """One simulated host. Its id is made from its region, so that it is the same at the next start."""

    id: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`cpus` and `memory_mb` are of each host. `data_dir` None means that nothing is kept."""

    listen: str
    port: int
    hosts: tuple[HostOption, ...]
    chaos: Script
    images: tuple[tuple[str, Script], ...]
    seed: int
    cpus: int
    memory_mb: int
    data_dir: Path | None

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(host.region for host in self.hosts))


def parse(
    *,
    listen: str = "127.0.0.1",
    port: int = 0,
    regions: str = REGIONS,
    chaos: str = "",
    images: tuple[str, ...] = (),
    seed: int = 0,
    cpus: int = 64,
    memory_mb: int = 262_144,
    data_dir: Path | None = None,
) -> Options:
    """Raises `InvalidArgument` that names the option and what is allowed."""
    return Options(
        listen=listen,
        port=port,
        hosts=_hosts(regions),
        chaos=Script.parse(chaos, where="--chaos"),
        images=tuple(_image(text) for text in images),
        seed=seed,
        cpus=cpus,
        memory_mb=memory_mb,
        data_dir=data_dir,
    )


def _hosts(text: str) -> tuple[HostOption, ...]:
    found: list[HostOption] = []
    codes = [code.strip() for code in text.split(",") if code.strip()]
    for code in codes:
        if len(code) != 3 or not (code.isascii() and code.isalpha() and code.islower()):
            raise InvalidArgument(
                f"--regions: {code!r} is not a region",
                why="a region is three lower-case letters",
                next=f"choose from {', '.join(KNOWN)}, or make one up",
            )
        number = sum(host.region == code for host in found)
        found.append(HostOption(hashlib.sha256(f"{code}/{number}".encode()).hexdigest()[:8], code))
    if not 1 <= len(found) <= _HOSTS_MAX:
        raise InvalidArgument(
            f"--regions: from 1 to {_HOSTS_MAX} regions, got {len(found)}", next=f"--regions {REGIONS}"
        )
    return tuple(found)


def _image(text: str) -> tuple[str, Script]:
    pattern, sign, words = text.partition("=")
    if not pattern or not sign:
        raise InvalidArgument(
            f"--image: {text!r} is not PATTERN=WORDS",
            next="write it as 'registry.fly.io/worker:*=exit-after=2s,code=1'",
        )
    return pattern, Script.parse(words, where=f"--image {pattern}")
