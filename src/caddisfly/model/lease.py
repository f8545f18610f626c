"""A Lease: for a while, only who knows its nonce may change a Machine (reference machines-api, M17 and 4.6)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

TTL_DEFAULT_S, TTL_MIN_S, TTL_MAX_S = 30, 1, 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """`expires_ms` is milliseconds since the epoch, for people: the host counts down on a clock that nobody sets."""

    nonce: str
    owner: str
    expires_ms: int
    description: str = ""

    @classmethod
    def new(cls, *, owner: str, ttl_s: int, description: str, now_ms: int) -> Lease:
        return cls(
            nonce=secrets.token_hex(6), owner=owner, expires_ms=now_ms + ttl_s * 1000, description=description[:200]
        )

    def until(self, expires_ms: int) -> Lease:
        return replace(self, expires_ms=expires_ms)

    def to_wire(self, *, version: str) -> dict[str, Any]:
        """The `data` of the envelope. Whole seconds, as Fly has them."""
        return {
            "nonce": self.nonce,
            "expires_at": self.expires_ms // 1000,
            "owner": self.owner,
            "description": self.description,
            "version": version,
        }

    def to_record(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Lease:
        return cls(**{name: record[name] for name in cls.__dataclass_fields__ if name in record})


def clamped(ttl_s: int) -> int:
    """What a client asked for, within what is allowed. 0 is the default."""
    return min(max(ttl_s or TTL_DEFAULT_S, TTL_MIN_S), TTL_MAX_S)
