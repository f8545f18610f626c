"""Who asks, and which repositories are theirs: control's word, remembered for some seconds.

Only a yes is remembered, so that a token or an app that was just made works at once. What is kept of a secret is its
hash.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from hashlib import sha256

from caddisfly.bus import contract
from caddisfly.bus.contract import RepositoryAccess
from caddisfly.bus.rpc import Caller
from caddisfly.host.registry import refusals
from caddisfly.model.errors import Unauthenticated

_MOST_REMEMBERED = 10_000
_LONGEST = 16_384


class Gatekeeper:
    """One for the process. `control` is the road to it."""

    def __init__(self, control: Caller, *, cache_s: float, host_secret: str = "") -> None:
        self._control, self._cache_s, self._host_secret = control, cache_s, host_secret
        self._known: dict[tuple[bytes, str], tuple[float, RepositoryAccess | None]] = {}

    def is_host(self, header: str) -> bool:
        """Whether it is a host of this platform: these may pull everything, by organization and app."""
        wanted = f"Bearer {self._host_secret}".encode()
        return bool(self._host_secret) and hmac.compare_digest(_bearer(header).encode(), wanted)

    async def admit(self, header: str) -> None:
        """Anybody whose token is good. Raises `Unauthenticated`, or `Retryable` when control cannot be asked."""
        if not self.is_host(header):
            await self._ask(header, "")

    async def repository(self, header: str, name: str, *, push: bool) -> RepositoryAccess:
        """Raises `Refusal` for one that is not within reach: the same for what is others' and for what is not."""
        found = await self._ask(header, name)
        if found is None:
            raise refusals.name_unknown(name)
        if push and not found.push:
            raise refusals.Refusal(403, "DENIED", f"this token may not change {name}", next="use one that may")
        return found

    async def all(self, header: str) -> list[RepositoryAccess]:
        """Everything within reach, by name."""
        request = contract.AskAccess(authorization=_bearer(header), everything=True)
        granted = await self._control.call(contract.ASK_ACCESS, request)
        return sorted(granted.repositories, key=lambda one: one.name)

    async def _ask(self, header: str, name: str) -> RepositoryAccess | None:
        bearer = _bearer(header)
        key = (sha256(bearer.encode()).digest(), name)
        until, found = self._known.get(key, (0.0, None))
        now = time.monotonic()
        if now < until:
            return found
        request = contract.AskAccess(authorization=bearer, names=(name,) if name else ())
        granted = await self._control.call(contract.ASK_ACCESS, request)
        found = granted.repositories[0] if granted.repositories else None
        if found is not None or not name:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[key] = (now + self._cache_s, found)
        return found


def _bearer(header: str) -> str:
    """The token in `Basic` (as a password, under any user name) or `Bearer`, as the API would be given it."""
    scheme, _, value = header.strip().partition(" ")
    if scheme.lower() == "basic" and len(value) <= _LONGEST:
        try:
            _, _, value = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            value = ""
    elif scheme.lower() not in ("bearer", "flyv1"):
        value = ""
    if not value.strip() or len(value) > _LONGEST:
        raise Unauthenticated(
            "the registry wants a token", why="none was sent", next="docker login, with an access token as the password"
        )
    return f"Bearer {value.strip()}"
