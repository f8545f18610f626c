"""Errors that people and programs can act on.

An error says three things in three fields: `what` went wrong, `why`, and what to do `next`. Its class says two more:
the `code` that every border (HTTP, bus, CLI) understands, and, by deriving from `Retryable` or `Final`, whether trying
again can help. Code that retries catches `Retryable` and nothing else.

The codes are those that Fly's API puts in front of its texts (reference machines-api, 1.5).
"""

from __future__ import annotations

from typing import ClassVar


class Problem(Exception):
    """An error with a cause and a way out. Raise a subclass."""

    code: ClassVar[str] = "unknown"

    def __init__(self, what: str, *, why: str = "", next: str = "", status: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next = next
        self.status = status
        """Machine-readable detail beside the code, such as `name_taken`."""

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    @property
    def text(self) -> str:
        """The one-line form of Fly's API: `code: what: why`."""
        return f"{self.code}: {self}"

    def to_record(self) -> dict[str, str]:
        record = {
            "code": self.code,
            "what": self.what,
            "why": self.why,
            "next": self.next,
            "status": self.status,
        }
        return {key: value for key, value in record.items() if value}

    @staticmethod
    def from_record(record: dict[str, str]) -> Problem:
        kind = _BY_CODE.get(record.get("code", ""), Internal)
        return kind(
            record.get("what", "unknown error"),
            why=record.get("why", ""),
            next=record.get("next", ""),
            status=record.get("status", ""),
        )


class Final(Problem):
    """Trying the same again cannot help."""


class Retryable(Problem):
    """The same call may work later."""


class InvalidArgument(Final):
    """The request itself is wrong (400)."""

    code = "invalid_argument"


class Unauthenticated(Final):
    """No usable token (401)."""

    code = "unauthenticated"


class PermissionDenied(Final):
    """A usable token without the right (403)."""

    code = "permission_denied"


class NotFound(Final):
    """It is not there, or not visible to this token (404)."""

    code = "not_found"


class AlreadyExists(Final):
    """The name is taken (409)."""

    code = "already_exists"


class Aborted(Final):
    """Lost a race, or the host cannot take it (409)."""

    code = "aborted"


class FailedPrecondition(Final):
    """Legal, but not in the present state (412)."""

    code = "failed_precondition"


class Unprocessable(Final):
    """Well-formed but refused: validation, limits, no candidate host (422)."""

    code = "unprocessable"


class Unimplemented(Final):
    """Part of Fly's API that this version does not have yet (501)."""

    code = "unimplemented"


class Internal(Final):
    """A bug or a broken host (500)."""

    code = "unknown"


class DeadlineExceeded(Retryable):
    """No answer in time (408)."""

    code = "deadline_exceeded"


class Exhausted(Retryable):
    """Over a rate limit (429)."""

    code = "resource_exhausted"


class Unavailable(Retryable):
    """A part of the platform, or something it depends on, does not answer now (503)."""

    code = "unavailable"


def _leaves(kind: type[Problem]) -> list[type[Problem]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _leaves(child))]


_BY_CODE: dict[str, type[Problem]] = {
    kind.code: kind for kind in _leaves(Problem) if kind not in (Problem, Final, Retryable)
}
