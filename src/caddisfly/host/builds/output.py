"""What buildah prints, understood as far as a display needs: which step is under way, and how it ended.

The text is what a build's own steps may print as well. A step that prints such lines misleads those who look at their
own build and nobody else: what a build did is told by the sandbox's exit code and by the registry, never by its output.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, replace
from typing import Any

from caddisfly.host.builds.build import Step
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, Problem, Unprocessable

STARTED, ENDED = "started", "ended"
_STEP = re.compile(r"(?:\[(\d+/\d+)\] )?STEP (\d+)/(\d+): (.*)")
_CACHED = "--> Using cache "
_COMMIT = re.compile(r"(?:\[\d+/\d+\] )?COMMIT(?: |$)")
_FAILED_STEP = re.compile(r'building at STEP "(.*)": (.*)', re.DOTALL)
_EXIT = re.compile(r"exit status (\d+)\s*$")
_MANIFEST = re.compile(r"(?:reading manifest|manifest) (\S+) in (\S+?): (.*)", re.DOTALL)
_REGISTRY = re.compile(r"pinging container registry ([^\s:]+(?::\d+)?): (.*)", re.DOTALL)
_KILLED = "container exited on killed"
_FULL = "no space left on device"
_ERROR = "Error: "
_LONGEST = 2000
_MEMORY = "it was killed, as happens when memory runs out: use less, or raise [builds] memory_mb"


@dataclass(frozen=True, slots=True)
class Event:
    """A step that started or ended. A step that was found in the cache ends with `cached`."""

    what: str
    step: Step
    cached: bool = False

    def to_record(self) -> dict[str, Any]:
        step = self.step
        record: dict[str, Any] = {
            "event": self.what,
            "number": step.number,
            "of": step.of,
            "stage": step.stage,
            "text": step.text,
        }
        return record | ({"cached": self.cached, "exit_code": step.exit_code} if self.what == ENDED else {})


class Output:
    """Reads lines in their order. `step` is the one under way, after the end the one that failed."""

    def __init__(self) -> None:
        self.step: Step | None = None
        self.error = ""
        self.full = False
        self._cached = False
        self._code = 0

    def read(self, line: str) -> list[Event]:
        """What this line says about steps."""
        if self.error:
            self.error = f"{self.error}\n{line}"[:_LONGEST]
        if line.startswith(_ERROR):
            self.error = line.removeprefix(_ERROR)[:_LONGEST]
        if _FULL in line.lower():
            self.full = True
        if line.startswith(_KILLED):
            self._code = 128 + signal.SIGKILL
        if found := _STEP.match(line):
            stage, number, of, text = found.groups()
            ended = self._end()
            self.step = Step(text=text[:_LONGEST], number=int(number), of=int(of), stage=stage or "")
            return [*ended, Event(STARTED, self.step)]
        if line.startswith(_CACHED):
            self._cached = True
        elif _COMMIT.match(line):
            return self._end()
        return []

    def finish(self, exit_code: int) -> list[Event]:
        """The last step's end. One that failed stays in `step`."""
        if not exit_code:
            return self._end()
        if self.step is None:
            return []
        found = _EXIT.search(self.error)
        code = self._code or (int(found[1]) if found else exit_code)
        self.step = replace(self.step, exit_code=code)
        return [Event(ENDED, self.step)]

    def problem(self, exit_code: int, *, phase: str) -> Problem:
        """Why it failed, in words that say what to do."""
        error = self.error.strip() or f"buildah ended with {exit_code}"
        if self.full:
            return Unprocessable(
                "the build's disk is full",
                why=error,
                next="make the image or its cache mounts smaller, or raise [builds] disk_gb",
                status="disk_full",
            )
        if phase == "push":
            return FailedPrecondition("the image was built and cannot be pushed", why=error, next="build again")
        if found := _MANIFEST.search(error):
            tag, repository, reason = found.groups()
            return _no_base(self._base() or f"{repository}:{tag}", repository.partition("/")[0], reason)
        if found := _REGISTRY.search(error):
            return _no_base(self._base(), found[1], found[2])
        if found := _FAILED_STEP.search(error):
            text, reason = found.groups()
            return Unprocessable(
                f"step {self.step.name if self.step else ''} failed: {text[:200]}",
                why=reason,
                next="look at what it printed above" if not self._killed else _MEMORY,
                status="step_failed",
            )
        return InvalidArgument("the image cannot be built", why=error, status="build_failed")

    @property
    def _killed(self) -> bool:
        return self.step is not None and self.step.exit_code == 128 + signal.SIGKILL

    def _base(self) -> str:
        words = self.step.text.split() if self.step else []
        return next((word for word in words[1:] if not word.startswith("--")), "")

    def _end(self) -> list[Event]:
        if self.step is None:
            return []
        event = Event(ENDED, replace(self.step, exit_code=0), self._cached)
        self.step, self._cached = None, False
        return [event]


def _no_base(image: str, registry: str, reason: str) -> Problem:
    return Unprocessable(
        f"base image {image} is not there" if image else "a base image is not there",
        why=f"registry {registry} was asked: {reason.strip()}",
        next="look at the name in FROM; a private registry needs [images] credentials",
        status="no_base_image",
    )
