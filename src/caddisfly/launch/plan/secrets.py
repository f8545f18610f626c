"""Which secrets a new app gets, and which only its owner has.

What is there stays: a key that is generated anew logs everybody out, and a launch may run twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from caddisfly.launch.detect import Secret, opened
from caddisfly.launch.plan.plan import Plan

_BEFORE_A_RELEASE = ("postgres", "mysql", "mongodb")


def values(plan: Plan, *, given: Mapping[str, str], there: Collection[str]) -> dict[str, str]:
    """To be set: what was given, and what can be generated or read here and is not there yet."""
    found = dict(given)
    folder = opened(plan.directory)
    for secret in plan.settings.secrets:
        if secret.name not in found and secret.name not in there:
            value = folder.text(secret.file).strip() if secret.source == "file" else secret.generated()
            if value:
                found[secret.name] = value
    return found


def missing(plan: Plan, there: Collection[str]) -> list[Secret]:
    """What its owner has to give."""
    return [secret for secret in plan.settings.secrets if secret.name not in there]


def obstacles(plan: Plan, there: Collection[str]) -> list[str]:
    """Why a release command cannot work yet, in words."""
    command = " ".join(plan.config().deploy.release_command)
    if not command:
        return []
    return [
        f"`{command}` runs before the deploy and needs {', '.join(one.secrets)} ({one.why})"
        for one in plan.settings.services
        if one.kind in _BEFORE_A_RELEASE and not set(one.secrets) <= set(there)
    ]
