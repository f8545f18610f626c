"""One repository: the blobs it has, the manifests over them, the tags on these.

Every change is one link, one rename or one unlink, so that a crash leaves either state; what could be half there is
only an entry in `referrers` without its manifest, or the other way round, and both are read as absent. A manifest is
taken in only when everything it points to is here, and the collection removes top down, so a tag never leads nowhere.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from caddisfly.host.images.blobs import Draft
from caddisfly.host.images.durable import remove_tree, sync_directory, write_atomically
from caddisfly.host.images.manifest import MAX_MANIFEST_BYTES, Contents, read_contents
from caddisfly.host.images.reference import is_digest
from caddisfly.host.registry import refusals
from caddisfly.host.registry.content import Content
from caddisfly.host.registry.layout import Layout, RepositoryLayout


@dataclass(frozen=True, slots=True)
class StoredManifest:
    digest: str
    data: bytes
    contents: Contents


class Repository:
    """Every method blocks. Digests and tags that come in have been checked for their form."""

    def __init__(self, layout: RepositoryLayout, content: Content) -> None:
        self.layout, self._content = layout, content

    # Blobs

    def blob(self, digest: str) -> int:
        """The size of a blob, which stays from now on for the grace. Raises `Refusal`."""
        try:
            return self._content.seen(self.layout.blob(digest)).st_size
        except FileNotFoundError:
            raise refusals.blob_unknown(digest) from None

    def take_blob(self, draft: Draft, digest: str) -> None:
        self._content.take(draft, expected=digest, into=self.layout.blob(digest))

    def mount(self, digest: str, source: Repository) -> bool:
        """Take over a blob of another repository. False when that has none."""
        try:
            self._content.link(source.layout.blob(digest), self.layout.blob(digest))
        except FileNotFoundError:
            return False
        return True

    def delete_blob(self, digest: str) -> None:
        with self._content.lock:
            _unlink(self.layout.blob(digest), refusals.blob_unknown(digest))

    # Manifests

    def resolve(self, target: str) -> str:
        """From a tag or a digest to a digest that is here. Raises `Refusal`."""
        digest = target if is_digest(target) else self.layout.digest_of(target)
        if not digest or not self.layout.manifest(digest).exists():
            raise refusals.manifest_unknown(target)
        return digest

    def manifest(self, target: str) -> StoredManifest:
        with self._content.lock:
            digest = self.resolve(target)
            self._content.seen(self.layout.manifest(digest))
            return self._read(digest)

    def put_manifest(self, digest: str, data: bytes, *, contents: Contents, tag: str = "") -> None:
        """Raises `Refusal` when something it points to is not here."""
        layout = self.layout
        with self._content.lock:
            for blob in contents.blobs:
                self._expect(layout.blob(blob), f"blob {blob}")
            for child in contents.manifests:
                self._expect(layout.manifest(child), f"manifest {child}")
            if contents.subject:
                directory = layout.referrers(contents.subject)
                directory.mkdir(exist_ok=True)
                (directory / layout.manifest(digest).name).touch()
            self._content.put(data, into=layout.manifest(digest))
            if tag:
                self._untagged_now(layout.digest_of(tag))
                write_atomically(layout.tag(tag), digest.encode())

    def delete_tag(self, tag: str) -> None:
        with self._content.lock:
            self._untagged_now(self.layout.digest_of(tag))
            _unlink(self.layout.tag(tag), refusals.manifest_unknown(tag))

    def delete_manifest(self, digest: str) -> None:
        """With all tags on it."""
        with self._content.lock:
            contents = self._read(self.resolve(digest)).contents
            for tag in self.tags():
                if self.layout.digest_of(tag) == digest:
                    self.layout.tag(tag).unlink()
            sync_directory(self.layout.tags)
            _unlink(self.layout.manifest(digest), refusals.manifest_unknown(digest))
            if contents.subject:
                (self.layout.referrers(contents.subject) / self.layout.manifest(digest).name).unlink(missing_ok=True)

    def tags(self) -> list[str]:
        """In the order of their bytes, as the specification wants it."""
        return sorted(name for name in os.listdir(self.layout.tags) if not name.startswith("."))

    def manifests(self) -> Iterator[StoredManifest]:
        """All of them; one that is damaged is left out."""
        for name in sorted(os.listdir(self.layout.manifests)):
            with suppress(FileNotFoundError):
                yield self._read(f"sha256:{name}")

    def referrers(self, subject: str) -> list[StoredManifest]:
        """The manifests about this one, which itself need not be here."""
        with suppress(FileNotFoundError):
            names = sorted(os.listdir(self.layout.referrers(subject)))
            digests = [f"sha256:{name}" for name in names]
            return [self._read(digest) for digest in digests if self.layout.manifest(digest).exists()]
        return []

    def _read(self, digest: str) -> StoredManifest:
        with self.layout.manifest(digest).open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        return StoredManifest(digest, data, read_contents(data, what=digest))

    def _expect(self, path: Path, what: str) -> None:
        try:
            self._content.seen(path)
        except FileNotFoundError:
            raise refusals.Refusal(
                400,
                "MANIFEST_BLOB_UNKNOWN",
                f"the manifest points to {what}, which is not in this repository",
                next="push that first",
            ) from None

    def _untagged_now(self, digest: str) -> None:
        """The grace of what a tag pointed to begins when the tag moves."""
        if digest:
            with suppress(FileNotFoundError):
                os.utime(self.layout.manifest(digest))


class Repositories:
    """All of them, by who owns them."""

    def __init__(self, layout: Layout, content: Content) -> None:
        self._layout, self._content = layout, content

    def of(self, org_id: str, app: str) -> Repository:
        """It may not be there."""
        return Repository(self._layout.repository(org_id, app), self._content)

    def owned(self, org_id: str, app: str, *, app_id: str, make: bool = False) -> Repository | None:
        """The repository of an app, if it has one. What is left of an earlier app of the same name goes first."""
        repository = self.of(org_id, app)
        with self._content.lock:
            owner = self.owner(repository.layout)
            if owner and owner != app_id:
                self.drop(repository.layout)
                owner = ""
            if make and not owner:
                self._make(repository.layout, app_id)
                owner = app_id
        return repository if owner else None

    def all(self) -> list[Repository]:
        return [Repository(layout, self._content) for layout in self._layout.all()]

    @staticmethod
    def owner(layout: RepositoryLayout) -> str:
        """The id of the app, empty when there is no such repository."""
        try:
            return layout.owner.read_text()
        except FileNotFoundError:
            return ""

    def drop(self, layout: RepositoryLayout) -> None:
        """Gone in one rename; what it held follows."""
        trash = self._layout.trash / secrets.token_hex(8)
        with self._content.lock:
            layout.path.rename(trash)
            sync_directory(layout.path.parent)
        shutil.rmtree(trash)

    def sweep(self) -> None:
        """Remove the beginnings and ends that a crash left. Nobody may be writing."""
        for directory in (self._layout.trash, self._layout.temporary):
            remove_tree(directory)
            directory.mkdir(mode=0o700)
        for repository in self._layout.all():
            for path in repository.tags.glob(".*"):
                path.unlink()

    def _make(self, layout: RepositoryLayout, app_id: str) -> None:
        draft = self._layout.temporary / secrets.token_hex(8)
        beginning = RepositoryLayout(draft, layout.org_id, layout.app)
        for directory in beginning.directories:
            directory.mkdir(parents=True)
        write_atomically(beginning.owner, app_id.encode())
        layout.path.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(layout.path)
        sync_directory(layout.path.parent)


def _unlink(path: Path, refusal: refusals.Refusal) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        raise refusal from None
    sync_directory(path.parent)
