"""Manifests, the tags on them, and what refers to them."""

from __future__ import annotations

import asyncio

from caddisfly.host.images.blobs import digest_of
from caddisfly.host.images.manifest import MAX_MANIFEST_BYTES, OCI_INDEX, read_contents
from caddisfly.host.images.reference import is_digest
from caddisfly.host.registry import refusals
from caddisfly.host.registry.call import Call
from caddisfly.host.registry.listing import page
from caddisfly.host.registry.repository import Repository, StoredManifest


class ManifestCalls:
    async def get(self, call: Call, repository: Repository) -> None:
        manifest = await asyncio.to_thread(repository.manifest, call.parts["target"])
        headers = {
            "Content-Type": manifest.contents.media_type,
            "Docker-Content-Digest": manifest.digest,
            "ETag": f'"{manifest.digest}"',
        }
        if call.headers.get("if-none-match") == headers["ETag"]:
            await call.answer(304, headers=headers)
        elif call.method == "HEAD":
            await call.answer(200, headers=headers, length=len(manifest.data))
        else:
            await call.answer(200, manifest.data, headers=headers)

    async def put(self, call: Call, repository: Repository) -> None:
        target = call.parts["target"]
        data = await call.body(max_bytes=MAX_MANIFEST_BYTES)
        digest = digest_of(data)
        if is_digest(target) and target != digest:
            why = f"the manifest that was sent has {digest}"
            raise refusals.Refusal(
                400, "DIGEST_INVALID", f"the manifest is not {target}", why=why, next="send it again"
            )
        contents = read_contents(data, what=target, media_type=call.headers.get("content-type", ""))
        tag = "" if is_digest(target) else target
        await asyncio.to_thread(repository.put_manifest, digest, data, contents=contents, tag=tag)
        headers = {
            "Location": f"/v2/{call.parts['name']}/manifests/{digest}",
            "Docker-Content-Digest": digest,
        }
        if contents.subject:
            headers["OCI-Subject"] = contents.subject
        await call.answer(201, headers=headers)

    async def delete(self, call: Call, repository: Repository) -> None:
        target = call.parts["target"]
        await asyncio.to_thread(repository.delete_manifest if is_digest(target) else repository.delete_tag, target)
        await call.answer(202)

    async def tags(self, call: Call, repository: Repository) -> None:
        names = await asyncio.to_thread(repository.tags)
        shown, link = page(names, call)
        await call.answer_json({"name": call.parts["name"], "tags": shown}, **link)

    async def referrers(self, call: Call, repository: Repository) -> None:
        found = await asyncio.to_thread(repository.referrers, call.parts["digest"])
        headers = {}
        kind = call.query.get("artifactType", "")
        if kind:
            found = [one for one in found if one.contents.artifact_type == kind]
            headers["OCI_Filters_Applied"] = "artifactType"
        by_digest = {one.digest: one for one in found}
        shown, link = page(sorted(by_digest), call)
        index = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [_descriptor(by_digest[digest]) for digest in shown],
        }
        await call.answer_json(index, kind=OCI_INDEX, **headers, **link)


def _descriptor(manifest: StoredManifest) -> dict[str, object]:
    contents = manifest.contents
    shown: dict[str, object] = {
        "mediaType": contents.media_type,
        "digest": manifest.digest,
        "size": len(manifest.data),
    }
    if contents.artifact_type:
        shown["artifactType"] = contents.artifact_type
    if contents.annotations:
        shown["annotations"] = contents.annotations
    return shown
