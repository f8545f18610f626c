"""The name of an image, as people type it and as Fly's API spells it.

`nginx` is short for a registry, a repository and a tag. The expansion is Docker's, with one difference that Fly's
`image_ref` makes visible: Docker Hub is called by the host that serves it, `registry-1.docker.io`. All of its other
names mean the same registry, so that one image has one name in the store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from caddisfly.model.errors import InvalidArgument

DOCKER_HUB = "registry-1.docker.io"
_HUB_ALIASES = frozenset({DOCKER_HUB, "docker.io", "index.docker.io", "registry.hub.docker.com"})

MAX_LENGTH = 512
MAX_REPOSITORY = 255

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether this is a digest that the store accepts: SHA-256 in lower-case hexadecimal and nothing else."""
    return _DIGEST.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_repository(text: str) -> bool:
    """Whether this can be the name of a repository, without its registry."""
    return len(text) <= MAX_REPOSITORY and all(_COMPONENT.fullmatch(part) for part in text.split("/"))


@dataclass(frozen=True, slots=True)
class Reference:
    """A full image name. `tag` is empty only when the name was given by digest alone."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @staticmethod
    def parse(text: str) -> Reference:
        """Expand a name such as `nginx`, `ghcr.io/a/b:1` or `localhost:5000/x@sha256:…`."""
        if not text or len(text) > MAX_LENGTH:
            raise _bad(text, "it is empty" if not text else f"it is longer than {MAX_LENGTH} characters")
        name, at, digest = text.partition("@")
        if at and not is_digest(digest):
            raise _bad(text, "what follows `@` must be `sha256:` and 64 lower-case hexadecimal digits")
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise _bad(
                text, "a tag is 1 to 128 letters, digits, `_`, `.` and `-`, and starts with none of the last two"
            )
        registry, repository = _split(f"{head}{slash}{last}")
        port = registry.rpartition("]")[2].partition(":")[2]
        if not _HOST.fullmatch(registry) or (port and not 0 < int(port) < 65536):
            raise _bad(text, f"`{registry}` is not a registry's host name")
        if len(repository) > MAX_REPOSITORY:
            raise _bad(text, f"the repository is longer than {MAX_REPOSITORY} characters")
        for component in repository.split("/"):
            if not _COMPONENT.fullmatch(component):
                raise _bad(
                    text,
                    f"`{component}` is not a repository name: lower-case letters and digits, "
                    "single `.`, `_`, `__` or dashes between them",
                )
        return Reference(registry, repository, tag or ("" if digest else "latest"), digest)

    def __str__(self) -> str:
        return self.name + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        """The name without the digest: the key of what can change, such as a tag."""
        return f"{self.registry}/{self.repository}" + (f":{self.tag}" if self.tag else "")

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest when there is one, for it cannot move, else the tag."""
        return self.digest or self.tag

    def at(self, digest: str) -> Reference:
        """The same name, pinned."""
        return replace(self, digest=digest)

    def pinned_name(self, digest: str) -> str:
        """The name by digest alone: the key of what cannot change."""
        return f"{self.registry}/{self.repository}@{digest}"


def _split(path: str) -> tuple[str, str]:
    first, slash, rest = path.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = DOCKER_HUB, path
    if first in _HUB_ALIASES:
        return DOCKER_HUB, rest if "/" in rest else f"library/{rest}"
    return first, rest


def _bad(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"`{text[:100]}` is not an image reference",
        why=why,
        next="write it as [registry/]repository[:tag][@sha256:digest], for example nginx:1.27",
        status="image_reference",
    )
