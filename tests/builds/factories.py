"""Builds for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import zstandard

from caddisfly.host.builds.build import Build
from caddisfly.host.images.build import tar_of
from caddisfly.model import context
from caddisfly.model.context import Context, Descriptor

_numbers = count(1)


def a_build(*, app: str = "demo", org: str = "org1", **changes: Any) -> Build:
    number = next(_numbers)
    values: dict[str, Any] = {
        "id": f"{number:014x}",
        "app_id": f"id-of-{app}",
        "app_name": app,
        "org_id": org,
        "org_slug": org,
        "network_id": 7,
        "context": "sha256:" + "0" * 64,
        "dockerfile": "Dockerfile",
        "target": "",
        "args": {},
        "labels": {},
        "secret_names": (),
        "no_cache": False,
        "tag": "latest",
        "created_ms": number,
    }
    return Build(**values | changes)


def write_context(
    directory: Path, files: Mapping[str, str | bytes], *, dockerfile: str, links: Mapping[str, str] | None = None
) -> str:
    """The blobs of a context, as a laptop would push them; the digest of its manifest."""
    directory.mkdir(parents=True, exist_ok=True)

    def put(media_type: str, content: bytes) -> Descriptor:
        descriptor = Descriptor.of(media_type, content)
        (directory / descriptor.digest.removeprefix("sha256:")).write_bytes(content)
        return descriptor

    index = put(context.INDEX, zstandard.compress(json.dumps({"mtimes": dict.fromkeys(files, 1_000_000)}).encode()))
    text = put(context.DOCKERFILE, dockerfile.encode())
    pack = put(context.PACK, zstandard.compress(tar_of(files, links=links, mode=0o644)))
    manifest = Context(index, text, (pack,)).to_bytes()
    return put(context.MANIFEST, manifest).digest
