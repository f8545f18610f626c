"""Apps and organizations: names, and their shapes on the wire (reference machines-api, 1.9)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from caddisfly.model.errors import Unprocessable

_APP_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NETWORK_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    id: str
    slug: str
    name: str
    internal_numeric_id: int

    def to_wire(self) -> dict[str, Any]:
        return {"name": self.name, "slug": self.slug, "internal_numeric_id": self.internal_numeric_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """`network_id` is the 32 bits of every 6PN address in the app's network. `created_ms` counts from the epoch."""

    id: str
    name: str
    organization: Organization
    network: str
    network_id: int
    internal_numeric_id: int
    created_ms: int
    app_role: str = ""

    def to_wire(self, *, machine_count: int, status: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "status": status,
            "machine_count": machine_count,
            "volume_count": 0,
            "network": self.network,
            "internal_numeric_id": self.internal_numeric_id,
            "organization": self.organization.to_wire(),
            "cname_target": "",
            "app_role": self.app_role,
        }


def check_app_name(name: str) -> str:
    """Raises `Unprocessable` with Fly's text, which clients show."""
    if not _APP_NAME.fullmatch(name):
        raise Unprocessable(
            "Validation failed: Name under 63 chars using numbers, lowercase letters and dashes",
            why=f"{name!r} is not such a name",
        )
    return name


def check_network_name(name: str) -> str:
    if not _NETWORK_NAME.fullmatch(name):
        raise Unprocessable(
            f"Validation failed: Network {name!r} is not a usable name",
            next="use letters, digits and dashes, starting with a letter",
        )
    return name
