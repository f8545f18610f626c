"""A build, as an immutable record, and how it goes from state to state.

    queued ──▶ running ──▶ done          pushed; `digest` says what
       │          ├──────▶ failed        its own fault or its surroundings'; `failure` says which
       │          ├──────▶ cancelled
       ├──────────┴──────▶ interrupted   the agent went away over it: asking again is all it takes
       └─────────────────▶ cancelled

Secrets are no part of it. They are with whoever carries the build out, in memory, and the record goes into the
journal, over the bus and to clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from caddisfly.model.errors import Problem
from caddisfly.model.machine import rfc3339

QUEUED: Final = "queued"
RUNNING: Final = "running"
DONE: Final = "done"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
INTERRUPTED: Final = "interrupted"

ENDED = frozenset({DONE, FAILED, CANCELLED, INTERRUPTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An instruction of the Dockerfile: `number` of `of` in its stage. `exit_code` of a RUN that failed."""

    text: str
    number: int
    of: int
    stage: str = ""
    exit_code: int | None = None

    @property
    def name(self) -> str:
        return f"{self.stage} {self.number}/{self.of}".lstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """Times are milliseconds since the epoch, 0 for not yet. `context` is the digest of the context's manifest."""

    id: str
    app_id: str
    app_name: str
    org_id: str
    org_slug: str
    network_id: int
    context: str
    dockerfile: str
    target: str
    args: Mapping[str, str]
    labels: Mapping[str, str]
    secret_names: tuple[str, ...]
    no_cache: bool
    tag: str
    state: str = QUEUED
    created_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    image: str = ""
    digest: str = ""
    step: Step | None = None
    """The one under way, or the one that failed."""
    failure: Mapping[str, str] = field(default_factory=dict)
    """`Problem.to_record()`."""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def run(self, now_ms: int) -> Build:
        return replace(self, state=RUNNING, started_ms=now_ms)

    def at(self, step: Step) -> Build:
        return replace(self, step=step)

    def finish(self, now_ms: int, *, image: str, digest: str) -> Build:
        return replace(self, state=DONE, ended_ms=now_ms, image=image, digest=digest, step=None)

    def fail(self, now_ms: int, problem: Problem, *, step: Step | None = None) -> Build:
        return replace(self, state=FAILED, ended_ms=now_ms, failure=problem.to_record(), step=step)

    def cancel(self, now_ms: int) -> Build:
        return replace(self, state=CANCELLED, ended_ms=now_ms)

    def interrupt(self, now_ms: int) -> Build:
        return replace(self, state=INTERRUPTED, ended_ms=now_ms)

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Build:
        """Raises `KeyError` or `TypeError` for what is no such record."""
        step = record.get("step")
        return cls(
            **{
                **record,
                "secret_names": tuple(record["secret_names"]),
                "step": Step(**step) if step else None,
            }
        )

    def to_wire(self) -> dict[str, Any]:
        """As the API shows it."""
        times = {"created_at": self.created_ms, "started_at": self.started_ms, "ended_at": self.ended_ms}
        return {
            "id": self.id,
            "app": self.app_name,
            "state": self.state,
            "context": self.context,
            "dockerfile": self.dockerfile,
            "target": self.target,
            "args": dict(self.args),
            "labels": dict(self.labels),
            "secrets": list(self.secret_names),
            "no_cache": self.no_cache,
            "tag": self.tag,
            "image": self.image,
            "digest": self.digest,
            "step": asdict(self.step) if self.step else None,
            "failure": dict(self.failure) or None,
            **{name: rfc3339(ms) if ms else None for name, ms in times.items()},
        }
