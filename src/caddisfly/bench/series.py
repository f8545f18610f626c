"""Times of one thing, and what is said about them."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Series:
    """Times in milliseconds, in the order in which they were taken."""

    name: str
    times_ms: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return statistics.median(self.times_ms)

    @property
    def p99(self) -> float:
        """The smallest time that at least 99 of 100 do not exceed: with fewer than 100, the largest."""
        return sorted(self.times_ms)[math.ceil(0.99 * len(self.times_ms)) - 1]

    def to_wire(self) -> dict[str, Any]:
        return {
            "n": len(self.times_ms),
            "p50_ms": round(self.p50, 1),
            "p99_ms": round(self.p99, 1),
            "min_ms": round(min(self.times_ms), 1),
        }
