"""The platform's own registry, as images name it: `registry.<domain>/<app>`, or Fly's `registry.fly.io/<app>`.

Both mean the same, so that a config written for Fly works as it is. A port after the host name changes nothing: it only
says by which door one came in. A repository is an app; whose it is decides who may use its images.
"""

from __future__ import annotations

from caddisfly.model.errors import InvalidArgument

APP = "registry"
"""No app can have this name: its host name is the registry's."""
FLYS = "registry.fly.io"


def host_name(domain: str) -> str:
    return f"{APP}.{domain}"


def names(domain: str) -> tuple[str, ...]:
    """What it is called, ours first."""
    return host_name(domain), FLYS


def is_ours(registry: str, *, domain: str) -> bool:
    """Whether the registry of an image name, with or without a port, is the platform's."""
    return registry.partition(":")[0].lower() in names(domain)


def app_of(image: str, *, domain: str) -> str | None:
    """The app whose image this name means, None for an image of another registry."""
    registry, slash, rest = image.partition("/")
    if not slash or not is_ours(registry, domain=domain):
        return None
    return rest.partition("@")[0].partition(":")[0]


def not_there(image: str, *, registry: str, repository: str, detail: str = "") -> InvalidArgument:
    """The answer for an image that does not exist, and for one that is not for whoever asks: they must not differ."""
    return InvalidArgument(
        f"image {image} is not there: MANIFEST_UNKNOWN: manifest unknown",
        why=f"{registry} has no such tag or digest in {repository}" + (f" ({detail})" if detail else ""),
        next="check the name and the tag, or push the image first",
        status="manifest_unknown",
    )
