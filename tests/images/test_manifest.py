"""Manifests, indexes and configs: what is read, and what is refused by name (fault 19)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from caddisfly.host.images.image import Descriptor
from caddisfly.host.images.manifest import (
    MAX_INDEX_DEPTH,
    MAX_MANIFEST_BYTES,
    Manifest,
    machine_architecture,
    read_config,
    read_manifest,
)
from caddisfly.model.errors import InvalidArgument
from tests.images.factories import ImageParts, index_entry, index_of


def read(document: dict[str, Any] | bytes, **options: Any) -> Manifest | Descriptor:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_manifest(data, what="x", **options)


def manifest(parts: ImageParts) -> Manifest:
    found = read(parts.manifest)
    assert isinstance(found, Manifest)
    return found


def test_an_index_leads_to_this_machines_manifest() -> None:
    here = index_entry(b"here", machine_architecture())
    found = read(index_of(index_entry(b"attestation", "unknown", os="unknown"), index_entry(b"far", "s390x"), here))
    assert isinstance(found, Descriptor)
    assert found.digest == here["digest"]


def test_an_index_without_this_machine_says_what_it_has() -> None:
    with pytest.raises(
        InvalidArgument, match=f"not available for linux/{machine_architecture()}, only for linux/s390x"
    ):
        read(index_of(index_entry(b"far", "s390x")))


def test_the_config_is_read() -> None:
    parts = ImageParts(
        b"tar",
        config={
            "Env": ["A=1"],
            "Entrypoint": ["/e"],
            "Cmd": ["c"],
            "User": "app",
            "WorkingDir": "/w",
            "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGINT",
            "Labels": {"a": "b"},
        },
    )
    config, layers = read_config(parts.config_bytes, manifest(parts), what="x")
    assert (config.env, config.entrypoint, config.cmd) == (("A=1",), ("/e",), ("c",))
    assert (config.user, config.working_dir, config.stop_signal) == ("app", "/w", "SIGINT")
    assert (config.exposed_ports, dict(config.labels)) == (("80/tcp",), {"a": "b"})
    assert [layer.diff_id for layer in layers] == parts.diff_ids


def test_nulls_are_nothing() -> None:
    parts = ImageParts(b"tar", config={"Env": None, "Cmd": None, "Labels": None, "User": None})
    config, _ = read_config(parts.config_bytes, manifest(parts), what="x")
    assert (config.env, config.cmd, config.user) == ((), (), "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": [{"digest": "sha256:" + "a" * 64, "size": 1}] * 10_000}, "10000 layers, more than 127"),
        ({"layers": [{"digest": "md5:abc", "size": 1}]}, "sha256"),
        ({"layers": [{"digest": "sha256:" + "a" * 64, "size": -1}]}, "greater than or equal"),
        ({"layers": [{"digest": "sha256:" + "a" * 64, "size": 2**62}]}, "less than or equal"),
        ({"layers": "none"}, "valid list"),
        ({"layers": None}, "no config or no layers"),
        ({"schemaVersion": 1}, "schema version 1"),
        ({"mediaType": "text/html"}, "media type `text/html`"),
        (
            {"layers": [{"digest": "sha256:" + "a" * 64, "size": 1, "mediaType": "application/wasm"}]},
            "unsupported media type `application/wasm`",
        ),
        (
            {"config": {"digest": "sha256:" + "a" * 64, "size": 1, "mediaType": "application/vnd.helm.config"}},
            "not a container image",
        ),
    ],
)
def test_a_bad_manifest_is_refused_by_name(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        read(ImageParts(b"tar").manifest | change)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b"<html>"])
def test_what_is_not_a_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        read(data)


def test_a_huge_manifest_is_refused_unread() -> None:
    with pytest.raises(InvalidArgument, match="larger than"):
        read(b" " * (MAX_MANIFEST_BYTES + 1))


def test_nested_indexes_end() -> None:
    with pytest.raises(InvalidArgument, match="nested more than"):
        read(index_of(index_entry(b"x", machine_architecture())), depth=MAX_INDEX_DEPTH)


def test_an_index_with_too_many_entries_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="entries, more than"):
        read(index_of(*[index_entry(b"x", "s390x")] * 300))


def test_config_and_manifest_must_agree_about_layers() -> None:
    parts = ImageParts(b"one", b"two")
    parts.config["rootfs"]["diff_ids"] = parts.diff_ids[:1]
    with pytest.raises(InvalidArgument, match="lists 1 layers and its manifest 2"):
        read_config(parts.config_bytes, manifest(parts), what="x")


def test_another_architecture_is_named() -> None:
    parts = ImageParts(b"tar", architecture="s390x")
    with pytest.raises(InvalidArgument, match="linux/s390x, and this host is linux/"):
        read_config(parts.config_bytes, manifest(parts), what="x")
