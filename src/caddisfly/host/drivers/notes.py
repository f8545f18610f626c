"""What an agent that comes back must know of the pods that it finds.

    <directory>/<id>/plan.json     what a pod is made of; written once, first
    <directory>/<id>/state.json    how far it is

The directory is one that a reboot empties, like the sandboxes themselves. What is written outlives the agent, and only
the agent, so nothing is synced to a disk. A state takes the place of the one before it in one step; a plan that an
agent died over is no plan, since nothing is begun before it is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from caddisfly.host.drivers.driver import Bind, Limits, Member, Sandbox
from caddisfly.model.duration import Duration
from caddisfly.model.errors import Unavailable
from caddisfly.model.program import RestartPolicy, StopConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far a pod is. `stopping` is the signal with which it is to end, 0 while it is not."""

    begun: bool
    stopping: int
    patience_s: float | None
    """How long a program may take to end when nobody else kills it. None: somebody does."""
    parts: Mapping[str, tuple[int, int]]
    """By program: the sandboxes it has had, and the retries that count against its policy."""

    def to_record(self) -> dict[str, Any]:
        parts = {name: list(counts) for name, counts in self.parts.items()}
        return {"begun": self.begun, "stopping": self.stopping, "patience_s": self.patience_s, "parts": parts}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> State:
        return cls(
            begun=record["begun"],
            stopping=record["stopping"],
            patience_s=record["patience_s"],
            parts={name: (tries, retries) for name, (tries, retries) in record["parts"].items()},
        )


class Notes(Protocol):
    """Where pods are written down. What was written before the agent died is there for the next one.

    `begin` and `keep` raise `Unavailable` when they cannot write.
    """

    def begin(self, plan: Sandbox) -> None: ...

    def plan(self, id: str) -> Sandbox | None: ...

    def keep(self, id: str, state: State) -> None: ...

    def state(self, id: str) -> State | None: ...

    def forget(self, id: str) -> None: ...

    def has(self, id: str) -> bool: ...

    def known(self) -> frozenset[str]: ...


class FileNotes:
    """As files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def begin(self, plan: Sandbox) -> None:
        home = self._directory / plan.id
        try:
            home.mkdir(parents=True, exist_ok=True)
            (home / "plan.json").write_text(encoded(plan))
        except OSError as error:
            raise not_written(error, home) from error

    def plan(self, id: str) -> Sandbox | None:
        try:
            record = json.loads((self._directory / id / "plan.json").read_bytes())
        except (FileNotFoundError, ValueError):  # the agent died while it wrote the first file: nothing was begun
            return None
        return plan_of(record)

    def keep(self, id: str, state: State) -> None:
        file = self._directory / id / "state.json"
        draft = file.with_suffix(".new")
        try:
            draft.write_text(json.dumps(state.to_record()))
            os.replace(draft, file)
        except OSError as error:
            raise not_written(error, file) from error

    def state(self, id: str) -> State | None:
        try:
            return State.from_record(json.loads((self._directory / id / "state.json").read_bytes()))
        except FileNotFoundError:
            return None

    def forget(self, id: str) -> None:
        shutil.rmtree(self._directory / id, ignore_errors=True)

    def has(self, id: str) -> bool:
        """Whether there is any trace of it, be it a plan that cannot be read."""
        return (self._directory / id).exists()

    def known(self) -> frozenset[str]:
        if not self._directory.is_dir():
            return frozenset()
        return frozenset(entry.name for entry in self._directory.iterdir())


def not_written(error: OSError, path: Path) -> Unavailable:
    """For who tries again: a disk that is full may not be so for long."""
    return Unavailable(
        "the host cannot note how far the machine's programs are",
        why=f"{error.strerror or error}: {path}",
        next="free space on that disk, or let the agent write there",
    )


def encoded(plan: Sandbox) -> str:
    """As JSON; `plan_of` reads it."""
    return json.dumps(asdict(plan), default=str)


def plan_of(record: Mapping[str, Any]) -> Sandbox:
    return Sandbox(
        **{
            **record,
            "root": Path(record["root"]),
            "log": Path(record["log"]),
            "netns": Path(record["netns"]) if record["netns"] else None,
            "argv": tuple(record["argv"]),
            "env": tuple(record["env"]),
            "gids": tuple(record["gids"]),
            "binds": tuple(Bind(source=Path(one["source"]), target=one["target"]) for one in record["binds"]),
            "limits": Limits(**record["limits"]),
            "members": tuple(_member(one) for one in record["members"]),
            "files": (),  # only microVMs are given any, and a microVM is no pod
        }
    )


def _member(record: Mapping[str, Any]) -> Member:
    stop = record["stop"]
    return Member(
        name=record["name"],
        sandbox=plan_of(record["sandbox"]),
        restart=RestartPolicy(**record["restart"]),
        stop=StopConfig(stop["signal"], Duration(stop["timeout"])) if stop else None,
        after=tuple((name, condition) for name, condition in record["after"]),
        essential=record["essential"],
    )
