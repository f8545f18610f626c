"""An operation as the journal keeps it: one durable piece of work on one Machine.

Its list of steps is stored with it, so that work begun by an older version finishes on its own recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`at` is the index of the step that is under way or comes next. `instance_id` fences it to a version."""

    id: str
    machine_id: str
    kind: str
    instance_id: str
    steps: tuple[str, ...]
    at: int = 0
    args: Mapping[str, Any] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Operation:
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        return cls(**{**known, "steps": tuple(record["steps"])})
