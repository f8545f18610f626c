"""Answers that are no: HTTP status and code of the distribution specification, in our three words for people.

Docker and its like show the `message` and nothing else, so it carries all three.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from caddisfly.model.errors import Exhausted, Final, InvalidArgument, Problem, Retryable, Unauthenticated

REALM = "Caddisfly registry: any user name, an access token as the password"
_BY_STATUS = {
    "digest_mismatch": (400, "DIGEST_INVALID"),
    "too_large": (413, "SIZE_INVALID"),
    "image_invalid": (400, "MANIFEST_INVALID"),
    "no_space": (507, "NO_SPACE"),
}


class Refusal(Final):
    """`oci_code` is the specification's word for it, where it has one."""

    def __init__(
        self,
        http_status: int,
        oci_code: str,
        what: str,
        *,
        why: str = "",
        next: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(what, why=why, next=next)
        self.http_status, self.oci_code, self.headers = http_status, oci_code, dict(headers or {})

    def body(self) -> bytes:
        message = str(self) + (f" ({self.next})" if self.next else "")
        detail = {"why": self.why, "next": self.next}
        return json.dumps({"errors": [{"code": self.oci_code, "message": message, "detail": detail}]}).encode()


def of(problem: Problem) -> Refusal:
    """The same problem in the words of a registry."""
    if isinstance(problem, Refusal):
        return problem
    headers: dict[str, str] = {}
    if problem.status in _BY_STATUS:
        status, code = _BY_STATUS[problem.status]
    elif isinstance(problem, Unauthenticated):
        status, code = 401, "UNAUTHORIZED"
        headers = {"WWW-Authenticate": f'Basic realm="{REALM}"'}
    elif isinstance(problem, Exhausted):
        status, code = 429, "TOOMANYREQUESTS"
    elif isinstance(problem, Retryable):
        status, code, headers = 503, "UNAVAILABLE", {"Retry-After": "2"}
    elif isinstance(problem, InvalidArgument):
        status, code = 400, "UNSUPPORTED"
    else:
        status, code = 500, "UNKNOWN"
    return Refusal(status, code, problem.what, why=problem.why, next=problem.next, headers=headers)


def bad_digest(digest: str) -> Refusal:
    why = "no digest was given" if not digest else "only sha256 digests are accepted, with 64 lower-case digits"
    return Refusal(400, "DIGEST_INVALID", f"`{digest[:100]}` is not a digest this registry takes", why=why)


def blob_unknown(digest: str) -> Refusal:
    return Refusal(404, "BLOB_UNKNOWN", f"blob {digest} is not in this repository")


def manifest_unknown(target: str) -> Refusal:
    return Refusal(404, "MANIFEST_UNKNOWN", f"manifest unknown: nothing is called {target} in this repository")


def upload_unknown() -> Refusal:
    return Refusal(
        404,
        "BLOB_UPLOAD_UNKNOWN",
        "this upload is not known",
        why="it was finished, cancelled, or left alone too long",
        next="begin another",
    )


def name_unknown(name: str) -> Refusal:
    return Refusal(
        404,
        "NAME_UNKNOWN",
        f"repository {name} is not there",
        why="a repository is an app, and this token reaches no app of that name",
        next=f"create it first: caddis apps create {name}",
    )


def out_of_order(size: int) -> Refusal:
    """A chunk that does not begin where the upload ends. Whoever answers adds where that is."""
    return Refusal(
        416,
        "BLOB_UPLOAD_INVALID",
        "the chunk is out of order",
        why=f"{size} bytes have arrived so far",
        next="ask for the upload's status, and go on from there",
        headers={"Range": received(size)},
    )


def received(size: int) -> str:
    """The `Range` of an upload. As the reference implementation, one that is empty says `0-0`, too."""
    return f"0-{max(0, size - 1)}"
