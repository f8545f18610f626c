"""Passes: what a build pushes its result with.

A pass says which app it is for and until when, under a signature that every control can check, since all of them know
the bus's token. So nothing is stored, nothing has to be revoked, and what leaks from a build is worth one app's
repository for as long as a build may take. It is no token: the API does not take it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import time
from dataclasses import dataclass

PREFIX = "cfb1_"
_PURPOSE = b"caddisfly build pass"


@dataclass(frozen=True, slots=True)
class Pass:
    """It may push to this app, and pull from all of the organization, whose images a Dockerfile may begin with."""

    app_id: str
    org_id: str
    expires_s: int


class Passes:
    """`secret` is what all controls of a platform have in common. Without one there are no passes."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), _PURPOSE, "sha256") if secret else b""

    def mint(self, *, app_id: str, org_id: str, ttl_s: int) -> str:
        """Empty without a secret."""
        if not self._key:
            return ""
        body = base64.urlsafe_b64encode(json.dumps([app_id, org_id, int(time.time()) + ttl_s]).encode()).decode()
        return f"{PREFIX}{body}.{self._sign(body)}"

    def read(self, authorization: str) -> Pass | None:
        """The pass in an `Authorization` header. None for what is none, is not ours, or is over."""
        text = authorization.removeprefix("Bearer ").strip()
        body, _, signature = text.removeprefix(PREFIX).partition(".")
        if not self._key or not text.startswith(PREFIX) or not hmac.compare_digest(signature, self._sign(body)):
            return None
        try:
            app_id, org_id, expires_s = json.loads(base64.urlsafe_b64decode(body))
        except (ValueError, binascii.Error, TypeError):
            return None
        return Pass(str(app_id), str(org_id), int(expires_s)) if time.time() < int(expires_s) else None

    def _sign(self, body: str) -> str:
        return hmac.new(self._key, body.encode("utf-8", "surrogateescape"), "sha256").hexdigest()
