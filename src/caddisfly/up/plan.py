"""What the supervisor runs: written once by `caddis up`, read by a supervisor that knows nothing else.

The supervisor lives as long as the platform, so it is kept small: it imports the standard library only, and everything
that needs the settings (and pydantic under them) has been decided by the time it starts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPlan:
    """One child process.

    `ready` is what answers once it serves: `tcp:<host>:<port>`, `unix:<path>`, or empty when running is all there is
    to know. `stop_timeout_s` is how long it may take to stop before it is killed.
    """

    name: str
    argv: tuple[str, ...]
    ready: str
    stop_timeout_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All children, in the order in which they start. `log_dir` None: prefixed lines on standard error instead."""

    run_dir: Path
    parts: tuple[PartPlan, ...]
    log_dir: Path | None = None
    log_size_bytes: int = 16 * 1024 * 1024
    ready_timeout_s: float = 60.0
    backoff_first_s: float = 0.5
    backoff_max_s: float = 30.0
    good_after_s: float = 60.0
    """A child that ran this long is forgiven its earlier failures."""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), default=str, indent=1))

    @classmethod
    def load(cls, path: Path) -> Plan:
        raw = json.loads(path.read_text())
        parts = tuple(PartPlan(**{**part, "argv": tuple(part["argv"])}) for part in raw.pop("parts"))
        log_dir = Path(raw.pop("log_dir")) if raw["log_dir"] else raw.pop("log_dir")
        return cls(run_dir=Path(raw.pop("run_dir")), log_dir=log_dir, parts=parts, **raw)
