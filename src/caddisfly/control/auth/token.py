"""Tokens: how they are made, kept and found in a header.

They are opaque: 256 random bits behind a prefix that secret scanners can look for. Only their SHA-256 is stored. A
slow hash is for what people choose; nobody finds 256 random bits by trying.

Fly's clients send them in several forms (reference machines-api, 1.2), and one header may carry several.
"""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "fo1_"
_SCHEMES = ("bearer", "flyv1")
_MOST_TOKENS = 20
_LONGEST = 512


def generate() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """What is stored in place of the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def shown(token: str) -> str:
    """The beginning, by which a person recognises a token in a list. It gives nothing away: 48 of 256 bits."""
    return token[: len(PREFIX) + 8]


def in_header(value: str) -> tuple[str, ...]:
    """The tokens of an `Authorization` header that could be ours; others, such as macaroons, are left out."""
    rest, schemes = value.strip(), 0
    while schemes < 2:  # `Bearer FlyV1 ...` is what people paste
        scheme, _, after = rest.partition(" ")
        if scheme.lower() not in _SCHEMES:
            break
        rest, schemes = after.strip(), schemes + 1
    if not schemes:
        return ()
    words = dict.fromkeys(word.strip() for word in rest.split(","))
    return tuple(word for word in words if word.startswith(PREFIX) and len(word) <= _LONGEST)[:_MOST_TOKENS]
