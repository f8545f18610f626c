"""`caddis settings`: the reference of every setting, made of the settings themselves, so it is never out of date."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from caddisfly.up.settings import SECTIONS, Settings


def listing(settings: Settings) -> list[dict[str, str]]:
    """One row per setting; secrets are told to be set, not shown."""
    return [
        {
            "section": section,
            "key": key,
            "value": _shown(getattr(settings.section(section), key)),
            "default": _shown(field.get_default(call_default_factory=True)),
            "environment": f"CADDIS_{section}_{key}".upper(),
            "description": field.description or "",
        }
        for section, model in SECTIONS.items()
        for key, field in model.model_fields.items()
    ]


def _shown(value: Any) -> str:
    if value is PydanticUndefined:
        return "(made by caddis up)"
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else '""'
    if isinstance(value, BaseModel):
        return "(a section of its own)"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple | list | set | frozenset):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return f'"{value}"'
