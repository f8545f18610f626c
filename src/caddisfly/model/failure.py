"""A problem as HTTP says it: status and body (reference machines-api, 1.5). Two parts answer HTTP as Fly's API does:
control, and the agent to its own Machines."""

from __future__ import annotations

from caddisfly.model.errors import Problem

_STATUS = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "deadline_exceeded": 408,
    "already_exists": 409,
    "aborted": 409,
    "failed_precondition": 412,
    "unprocessable": 422,
    "resource_exhausted": 429,
    "unknown": 500,
    "unimplemented": 501,
    "unavailable": 503,
}
_WITH_PREFIX = frozenset(
    (
        "invalid_argument",
        "not_found",
        "deadline_exceeded",
        "already_exists",
        "aborted",
        "failed_precondition",
        "unknown",
    )
)


def status_of(problem: Problem) -> int:
    return _STATUS.get(problem.code, 500)


def body_of(problem: Problem) -> dict[str, str]:
    """`error` is Fly's text and nothing else, because clients look for it; what helps a person stands beside."""
    error = f"{problem.code}: {problem.what}" if problem.code in _WITH_PREFIX else problem.what
    body = {"error": error, "status": problem.status, "why": problem.why, "next": problem.next}
    return {name: value for name, value in body.items() if value}
