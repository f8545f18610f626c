"""A Machine's metadata: one rule for whoever reads or sets it (reference machines-api, M16)."""

from __future__ import annotations

from collections.abc import Mapping

from caddisfly.model.errors import InvalidArgument, NotFound

_KEY_MAX, _VALUE_MAX, _KEYS_MAX = 256, 4096, 256


def check_changes(present: Mapping[str, str], changes: Mapping[str, str | None]) -> None:
    """Raises `InvalidArgument` when these changes of what is present cannot be kept."""
    for name, value in changes.items():
        if not name or len(name) > _KEY_MAX:
            raise InvalidArgument(f"invalid metadata key {name[:40]!r}, must have 1 to {_KEY_MAX} characters")
        if len(value or "") > _VALUE_MAX:
            raise InvalidArgument(f"invalid metadata value of {name!r}, must have at most {_VALUE_MAX} characters")
    if len({**present, **changes}) > _KEYS_MAX:
        raise InvalidArgument(f"too many metadata keys, at most {_KEYS_MAX} are kept")


def value_of(metadata: Mapping[str, str], key: str) -> str:
    """Raises `NotFound`."""
    if key not in metadata:
        raise NotFound(f"metadata key {key!r} not found", next="GET .../metadata lists them")
    return metadata[key]
