"""Releases that were, as something to deploy again: for a rollback, and for what needs the config that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caddisfly.client import AsyncClient
from caddisfly.client.errors import NotFoundError
from caddisfly.launch.config import AppConfig, of_release
from caddisfly.model.errors import FailedPrecondition, NotFound

_LOOKED_AT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """`image` is by digest, whatever the deploy was told."""

    version: int
    image: str
    config: AppConfig

    @classmethod
    def of(cls, release: Mapping[str, Any]) -> Past:
        return cls(
            version=int(release["version"]),
            image=str((release.get("progress") or {}).get("image") or release.get("image_ref") or ""),
            config=of_release(release.get("definition") or {}),
        )


async def current(client: AsyncClient, app: str) -> Past | None:
    """What the app's newest good release deployed; None when there was none, or nobody keeps them."""
    try:
        return Past.of(await client.releases.get(app, "current"))
    except NotFoundError:
        return None


async def before(client: AsyncClient, app: str, version: int = 0) -> Past:
    """Release `version`, or the good one before the newest good one. Raises `NotFound` or `FailedPrecondition`."""
    try:
        releases = await client.releases.list(app, limit=_LOOKED_AT)
    except NotFoundError:
        releases = []
    good = [one for one in releases if one["status"] == "complete"]
    shown = ", ".join(f"v{one['version']}" for one in good) or "none"
    if not version:
        if len(good) < 2:
            raise NotFound(
                f"{app} has no release to go back to",
                why=f"it needs one before the newest that is complete; there are: {shown}",
                next=f"caddis releases -a {app}",
            )
        version = int(good[1]["version"])
    try:
        release = await client.releases.get(app, version)
    except NotFoundError as error:
        raise NotFound(
            f"{app} has no release v{version}", why=f"complete are: {shown}", next="name one of them"
        ) from error
    if release["status"] != "complete":
        raise FailedPrecondition(
            f"v{version} of {app} was never good",
            why=f"its release is {release['status']}; complete are: {shown}",
            next="name one of them",
        )
    return Past.of(release)
