"""Identifiers, in the shapes that Fly's clients expect (reference machines-api, 1.7).

Random parts come from the operating system: an id is also a capability in places such as lease nonces, and two hosts
that create Machines at the same moment must never agree on one.
"""

from __future__ import annotations

import re
import secrets
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"

MACHINE_ID = re.compile(r"[0-9a-f]{14}")


class UlidClock:
    """Makes ULIDs that sort in the order they were made, within one process, even inside one millisecond."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._last_random = 0

    def next(self, now_ms: int | None = None) -> str:
        ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        if ms > self._last_ms:
            self._last_ms, self._last_random = ms, secrets.randbits(79)
        else:
            # The clock stood still or stepped back: stay on the last millisecond and count on.
            self._last_random += 1
        value = (self._last_ms << 80) | self._last_random
        return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


_clock = UlidClock()


def ulid() -> str:
    """26 characters of Crockford base32: instance ids, event ids, request ids, operation ids."""
    return _clock.next()


def machine_id() -> str:
    """14 lower-case hexadecimal digits."""
    return secrets.token_hex(7)


def app_id() -> str:
    """16 characters of `[0-9a-z]`, as in `z4k69dxd8r31p5mx`."""
    return "".join(secrets.choice(_BASE36) for _ in range(16))


def organization_id() -> str:
    return app_id()


def host_id() -> str:
    """8 hexadecimal digits: the host part of a 6PN address is made of them."""
    return secrets.token_hex(4)


_ADJECTIVES = (
    "aged ancient autumn billowing bitter black blue bold broken calm cold cool crimson damp dark dawn delicate divine "
    "dry empty falling fragrant frosty green hidden holy icy late lingering little lively long misty morning muddy "
    "nameless old patient polished proud purple quiet red restless rough shy silent small snowy solitary sparkling "
    "spring still summer throbbing twilight wandering weathered white wild winter wispy withered young"
).split()
_NOUNS = (
    "bird breeze brook bush butterfly cherry cloud darkness dawn dew dream dust feather field fire firefly flower fog "
    "forest frog frost glade glitter grass haze hill lake leaf meadow moon morning mountain night paper pine pond rain "
    "resonance river sea shadow shape silence sky smoke snow snowflake sound star sun sunset surf thunder tree violet "
    "voice water waterfall wave wildflower wind wood"
).split()


def generated_name() -> str:
    """A name for people, `adjective-noun-4digits`, as in `aged-thunder-7371`."""
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}-{1000 + secrets.randbelow(9000)}"
