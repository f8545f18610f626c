"""A value and where it comes from, which is shown beside it: nothing in a plan is simply so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

GIVEN = "as you said"
FROM_FILE = "from your fly.toml"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Value(Generic[T]):
    value: T
    origin: str
