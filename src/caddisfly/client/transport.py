"""What both clients share: where to send, as whom, what an answer means, and when to try again.

Retries follow fly-go: a read is sent again after 502, 503, 429 or a broken connection; anything else only when the
connection was never made, because nobody can know whether a lost answer was a done deed; unless the call has a key
by which the server knows, or does the same when it is sent twice.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import httpx

import caddisfly
from caddisfly.client import errors
from caddisfly.client.calls import Call

FLY = "https://api.machines.dev"
_FLY_LOGS = "https://api.fly.io"
_NONCE = "fly-machine-lease-nonce"
_KEY = "idempotency-key"
_AGAIN = (429, 502, 503)
_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`retries` is how many times a read is sent again; `pause_s` the first pause between two tries, in seconds."""

    base_url: str
    token: str
    retries: int = 4
    pause_s: float = 0.2

    def url(self, call: Call) -> str:
        base = self.base_url.rstrip("/")
        return (_FLY_LOGS if call.logs and base == FLY else base) + call.path

    def headers(self) -> dict[str, str]:
        headers = {"user-agent": f"caddisfly/{caddisfly.__version__}"}
        if self.token:
            headers["authorization"] = authorization(self.token)
        return headers

    def arguments(self, call: Call) -> dict[str, Any]:
        """For `httpx`'s `request`, of either kind."""
        given = {_NONCE: call.nonce, _KEY: call.idempotency_key}
        return {
            "method": call.method,
            "url": self.url(call),
            "params": dict(call.query),
            "json": call.body,
            "headers": {name: value for name, value in given.items() if value},
            "timeout": httpx.Timeout(call.answer_s, connect=_CONNECT_S),
        }

    def pause(self, call: Call, error: errors.ApiError, attempt: int) -> float | None:
        """Seconds until the next try of this call, None when there should be none. `attempt` counts from 0."""
        if attempt >= self.retries:
            return None
        unsent = isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
        again = isinstance(error, errors.ConnectionFailed) or error.status_code in _AGAIN
        if not unsent and not (again and (call.method == "GET" or call.repeatable or call.idempotency_key)):
            return None
        pause_s: float = self.pause_s * 2**attempt * random.uniform(0.5, 1.0)
        return max(error.retry_after_s, pause_s)


def authorization(token: str) -> str:
    """`FlyV1` for macaroons, `Bearer` for everything else; a scheme that was pasted along is kept."""
    if token.lower().startswith(("flyv1 ", "bearer ")):
        return token
    return f"FlyV1 {token}" if token.startswith(("fm1", "fm2_")) else f"Bearer {token}"


def understand(call: Call, response: httpx.Response) -> Any:
    """The result of a call. Raises `ApiError`."""
    request_id = response.headers.get("fly-request-id", "")
    if response.status_code >= 300:
        raise errors.of_response(
            response.status_code,
            response.content,
            request_id=request_id,
            retry_after=response.headers.get("retry-after", ""),
        )
    if not response.content:
        return {}
    try:
        return call.result(json.loads(response.content))
    except (ValueError, KeyError, TypeError) as error:
        raise errors.FinalError(
            f"the answer to {call.method} {call.path} is not what the API promises",
            status_code=response.status_code,
            request_id=request_id,
        ) from error


def unreached(call: Call, error: httpx.TransportError, base_url: str) -> errors.ApiError:
    """What a broken connection means."""
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
        return errors.TimedOut(f"{base_url} did not answer {call.method} {call.path} in {call.answer_s:g} s")
    return errors.ConnectionFailed(f"{base_url} does not answer: {error or type(error).__name__}")
