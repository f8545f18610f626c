"""Secrets as they rest in a database and a journal, and as they cross the bus: sealed.

Control seals a value the moment it takes it, and the host that runs the app opens it the moment it starts a Machine.
What lies between, two databases with their backups and the bus with its logs, never sees it. The key is a file beside
the data and not in it, the same for every control and every host of a platform. A sealed value is bound to its app and
its name: put in another's place it does not open.
"""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Mapping

from caddisfly.model.errors import FailedPrecondition, Internal

KEY_BYTES = 32
_NONCE_BYTES = 12
_FORM = "1."
"""In front of every sealed value, so that there can be another way one day."""


class Box:
    """What one key seals and opens. The library is loaded when it is first needed: most hosts have no secrets."""

    def __init__(self, key: str) -> None:
        """`key` is base64. Raises `FailedPrecondition` for one that is none."""
        try:
            self._key = base64.b64decode(key, validate=True)
        except ValueError:
            self._key = b""
        if len(self._key) != KEY_BYTES:
            raise FailedPrecondition(
                "the key of the secrets is not usable",
                why=f"it must be {KEY_BYTES} bytes in base64",
                next="put the file back that [platform] secrets_key_file names; a new key opens no old secret",
            )

    def seal(self, value: str, *, app_id: str, name: str) -> str:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._key).encrypt(nonce, value.encode(), _place(app_id, name))
        return _FORM + base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, *, app_id: str, name: str) -> str:
        """Raises `Internal` for what was sealed with another key, for another place, or changed since."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            raw = base64.b64decode(sealed.removeprefix(_FORM), validate=True)
            return AESGCM(self._key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _place(app_id, name)).decode()
        except (InvalidTag, ValueError) as error:
            raise Internal(
                f"secret {name} cannot be opened",
                why="it was sealed with another key, or it is damaged",
                next="check [platform] secrets_key_file, or set the secret again",
            ) from error

    def open_all(self, sealed: Mapping[str, str], *, app_id: str) -> dict[str, str]:
        return {name: self.open(value, app_id=app_id, name=name) for name, value in sealed.items()}

    def digest(self, value: str, *, app_id: str) -> str:
        """The same for the same value in one app. Without the key nobody can try values against it."""
        return hmac.digest(self._key, f"digest\0{app_id}\0{value}".encode(), "sha256").hex()[:16]


def new_key() -> str:
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def _place(app_id: str, name: str) -> bytes:
    return f"{app_id}\0{name}".encode()
