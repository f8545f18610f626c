"""What a suspended Machine is resumed from, as its host's journal has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Memory on disk, and all that it must be together with. It is used once."""

    instance_id: str
    """The version whose memory it is."""
    build: str
    """What made it, and alone can use it."""
    sha256: str
    """Of its files, with their names."""
    size_bytes: int
    roots: Mapping[str, str]
    """By name, what tells the roots as they were from any later state of them."""
    resumed_in: str = ""
    """The boot of the host in which something began to run from it. After another one there is no way to tell what
    that has written to the root, so nothing may be resumed from it any more."""

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Snapshot:
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in known})
