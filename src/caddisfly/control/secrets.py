"""Secrets of apps as control deals with them: sealed the moment they come in, opened only for who may see them.

What a Machine is given is the set as it was when it was created or updated, with its version: a restart brings the same
values, and none of it needs control (reference machines-api, S1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from caddisfly.bus import contract
from caddisfly.bus.sealing import Box
from caddisfly.control.records.secrets import Sealed, Secrets, SecretSet
from caddisfly.model.app import App
from caddisfly.model.errors import FailedPrecondition, InvalidArgument

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_VALUE_MAX_BYTES = 64 * 1024


class Safe:
    """One for the process. Without a key it refuses everything that would need one."""

    def __init__(self, records: Secrets, *, key: str) -> None:
        self._records, self._key = records, key

    async def of(self, app_id: str, *, at_least: int = 0) -> SecretSet:
        """Raises `FailedPrecondition` when the set that is wanted is not there."""
        found = await self._records.of(app_id)
        if found.version < at_least:
            raise FailedPrecondition(
                f"secrets of version {at_least} are not there",
                why=f"the newest set of this app is version {found.version}",
                next="send a version that setting secrets has returned",
            )
        return found

    async def change(self, app: App, values: Mapping[str, str | None]) -> SecretSet:
        """Set and, with None, remove. Raises `InvalidArgument`, with nothing changed."""
        for name, value in values.items():
            _check(name, value)
        box = self._box() if any(value is not None for value in values.values()) else None
        return await self._records.change(
            app.id,
            {
                name: None
                if value is None or box is None
                else Sealed(box.seal(value, app_id=app.id, name=name), box.digest(value, app_id=app.id))
                for name, value in values.items()
            },
        )

    def opened(self, app: App, found: SecretSet) -> dict[str, str]:
        """The values themselves. For who may see them all."""
        if not found.secrets:
            return {}
        return self._box().open_all({secret.name: secret.sealed for secret in found.secrets}, app_id=app.id)

    async def for_machine(self, app_id: str, *, skip: bool, at_least: int) -> contract.SecretSet | None:
        """What a new version of a Machine is given, sealed. None for one without secrets."""
        if skip:
            return None
        found = await self.of(app_id, at_least=at_least)
        if not found.version:
            return None
        return contract.SecretSet(
            version=found.version, values={secret.name: secret.sealed for secret in found.secrets}
        )

    def _box(self) -> Box:
        if not self._key:
            raise FailedPrecondition(
                "this platform keeps no secrets", why="it has no key for them", next="set [platform] secrets_key_file"
            )
        return Box(self._key)


def _check(name: str, value: str | None) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"invalid name of a secret, {name[:60]!r}",
            why="it becomes the name of an environment variable",
            next="use letters, digits and underscores, not beginning with a digit, at most 200",
        )
    if value is not None and "\0" in value:
        raise InvalidArgument(f"invalid value of {name}, it holds a zero byte", next="encode it, as base64 does")
    if value is not None and len(value.encode()) > _VALUE_MAX_BYTES:
        raise InvalidArgument(f"the value of {name} is too large", why=f"at most {_VALUE_MAX_BYTES} bytes are kept")
