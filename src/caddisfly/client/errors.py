"""What the API can answer instead of a result. Catch `RetryableError` to know that trying again may help."""

from __future__ import annotations

import json


class ApiError(Exception):
    """An answer that is not a result, or none at all.

    `status_code` is HTTP's, 0 when nothing answered. `text` is for people. `status` is the API's machine-readable
    detail, such as `name_taken`. `request_id` finds the call in the server's logs. `reason` is the server's own account
    of why, which Caddisfly gives and Fly does not.
    """

    next = ""
    """What helps, for people: the server's word, else what usually does."""

    def __init__(
        self,
        text: str,
        *,
        status_code: int = 0,
        status: str = "",
        request_id: str = "",
        retry_after_s: float = 0.0,
        reason: str = "",
        next: str = "",
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.next = next or type(self).next
        self.text = text
        self.status_code = status_code
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        """How long the server asks to wait before another try, in seconds; 0 when it does not say."""

    @property
    def why(self) -> str:
        """Why it happened, where the server says so, and where to look it up; for people."""
        if not self.status_code:
            return self.reason
        where = f"the API answered {self.status_code}" + (f", request {self.request_id}" if self.request_id else "")
        return f"{self.reason} ({where})" if self.reason else where


class FinalError(ApiError):
    """Trying the same again cannot help."""


class RetryableError(ApiError):
    """The same call may work later (429, 5xx, no answer)."""


class UnauthorizedError(FinalError):
    """401: no usable token."""

    next = "caddis auth login"


class ForbiddenError(FinalError):
    """403: a usable token without the right."""


class NotFoundError(FinalError):
    """404."""


class ConflictError(FinalError):
    """409: the name is taken, somebody else holds the lease, or a race was lost."""


class LeaseHeldError(ConflictError):
    """409: somebody else holds the Machine's Lease. Nothing was done; it ends on its own, as `text` says when."""

    next = "wait until it ends; `caddis machine leases view` shows it"


class PreconditionError(FinalError):
    """412: legal, but not in the present state."""


class TimedOut(RetryableError):
    """408, or a wait that ended before what was waited for."""


class ConnectionFailed(RetryableError):
    """Nothing answered."""

    next = "check the address: `caddis auth whoami` shows it; on the platform's own computer, `caddis status`"


_LEASE_HELD = "lease currently held by"
"""In the API's text, where every client looks for it: there is no code for it."""

_CLASSES: dict[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    408: TimedOut,
    409: ConflictError,
    412: PreconditionError,
    429: RetryableError,
    501: FinalError,
}


def of_response(status_code: int, body: bytes, *, request_id: str = "", retry_after: str = "") -> ApiError:
    """The error that an answer of 300 or above means. Lease-style bodies carry `message`, all others `error`."""
    try:
        wire = json.loads(body)
    except ValueError:
        wire = None
    if isinstance(wire, dict) and (wire.get("message") or wire.get("error")):
        text = str(wire.get("message") or wire["error"])
        status, reason, next = (str(wire.get(name) or "") for name in ("status", "why", "next"))
    else:
        text = body.decode(errors="replace").strip()[:500] or "no text"
        text, status = f"the API answered {status_code}: {text}", ""
        reason = next = ""
    kind = _CLASSES.get(status_code, RetryableError if status_code >= 500 else FinalError)
    if kind is ConflictError and _LEASE_HELD in text:
        kind = LeaseHeldError
    return kind(
        text,
        status_code=status_code,
        status=status,
        request_id=request_id,
        retry_after_s=float(retry_after) if retry_after.isdecimal() else 0.0,
        reason=reason,
        next=next,
    )
