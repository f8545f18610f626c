"""Where the registry keeps what: the one thing that it and the agent of its host agree on.

    blobs/sha256/<hex>                    all content, once
    repositories/<org>/<app>/app          the id of the app that this is the repository of
                            /blobs/<hex>      a hard link: this repository has this blob
                            /manifests/<hex>  likewise
                            /tags/<tag>       a digest
                            /referrers/<hex>/<hex>   subject, and an (empty) file for each manifest about it
                            /uploads/<id>     the beginning of a blob

A repository lies under its organization, so that an app's name that changes hands never shows what it held before. A
link is both the right to a blob and a reason for it to stay: content with one link belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NAME = "registry"
"""Of the directory, in the image store's file system."""


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


@dataclass(frozen=True, slots=True)
class RepositoryLayout:
    """The files of one repository. Digests and tags must have been checked: they become names of files."""

    path: Path
    org_id: str
    app: str

    @property
    def owner(self) -> Path:
        return self.path / "app"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def manifests(self) -> Path:
        return self.path / "manifests"

    @property
    def tags(self) -> Path:
        return self.path / "tags"

    @property
    def uploads(self) -> Path:
        return self.path / "uploads"

    @property
    def all_referrers(self) -> Path:
        return self.path / "referrers"

    @property
    def directories(self) -> tuple[Path, ...]:
        return self.blobs, self.manifests, self.tags, self.uploads, self.all_referrers

    def blob(self, digest: str) -> Path:
        return self.blobs / _hex(digest)

    def manifest(self, digest: str) -> Path:
        return self.manifests / _hex(digest)

    def tag(self, tag: str) -> Path:
        return self.tags / tag

    def referrers(self, subject: str) -> Path:
        return self.all_referrers / _hex(subject)

    def digest_of(self, tag: str) -> str:
        """What a tag means now, empty when there is no such tag."""
        try:
            return self.tag(tag).read_text().strip()
        except FileNotFoundError:
            return ""


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole directory."""

    root: Path

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def repositories(self) -> Path:
        return self.root / "repositories"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    def repository(self, org_id: str, app: str) -> RepositoryLayout:
        return RepositoryLayout(self.repositories / org_id / app, org_id, app)

    def all(self) -> Iterator[RepositoryLayout]:
        """Every repository that is there."""
        if not self.repositories.is_dir():
            return
        for org in sorted(self.repositories.iterdir()):
            for path in sorted(org.iterdir()):
                yield RepositoryLayout(path, org.name, path.name)
