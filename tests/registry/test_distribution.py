"""The OCI distribution specification 1.1, as a table of cases: pull, push, content discovery, content management.

Each case is one sentence of the specification, or of what every client expects, and the requests that show it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import httpx
import pytest

from caddisfly.host.images.manifest import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.registry.conftest import (
    APP,
    FOREIGN_APP,
    OTHER_APP,
    Artifact,
    Served,
    index_of,
    push,
    push_blob,
    push_manifest,
    sha,
)

Case = Callable[[httpx.AsyncClient], Awaitable[None]]
CASES: dict[str, Case] = {}
BASE = f"/v2/{APP}"
ABSENT = sha(b"this is nowhere")


def case(name: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        assert name not in CASES
        CASES[name] = function
        return function

    return add


def refused(answer: httpx.Response, status: int, code: str) -> None:
    """The status, and the code in the error document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    errors = answer.json()["errors"]
    assert [error["code"] for error in errors] == [code]
    assert all(error["message"] for error in errors)


async def begun(http: httpx.AsyncClient) -> str:
    answer = await http.post(f"{BASE}/blobs/uploads/")
    assert answer.status_code == 202
    return answer.headers["location"]


# Base


@case("base: /v2/ answers 200 to a good token, with and without the slash")
async def _(http: httpx.AsyncClient) -> None:
    for path in ("/v2/", "/v2"):
        answer = await http.get(path)
        assert answer.status_code == 200
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@case("base: without a token everything is 401 with a Basic challenge")
async def _(http: httpx.AsyncClient) -> None:
    http.auth = None
    for path in ("/v2/", f"{BASE}/tags/list", f"{BASE}/blobs/{ABSENT}", "/v2/nowhere/else", "/v2/_catalog"):
        answer = await http.get(path)
        refused(answer, 401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"].startswith("Basic realm=")


@case("base: a token may also come as a Bearer")
async def _(http: httpx.AsyncClient) -> None:
    http.auth = None
    answer = await http.get("/v2/", headers={"Authorization": "Bearer fo1_mine"})
    assert answer.status_code == 200


@case("base: an endpoint that is not there is 404, a method that is not there 405")
async def _(http: httpx.AsyncClient) -> None:
    refused(await http.get(f"{BASE}/nothing"), 404, "UNSUPPORTED")
    answer = await http.post(f"{BASE}/tags/list")
    refused(answer, 405, "UNSUPPORTED")
    assert answer.headers["allow"] == "GET"


# Pull


@case("pull: a manifest by tag and by digest, with its type, digest and length; HEAD says the same")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    await push(http, image, "v1")
    for target in ("v1", image.digest):
        for method in ("GET", "HEAD"):
            answer = await http.request(method, f"{BASE}/manifests/{target}")
            assert answer.status_code == 200
            assert answer.headers["content-type"] == OCI_MANIFEST
            assert answer.headers["docker-content-digest"] == image.digest
            assert int(answer.headers["content-length"]) == len(image.manifest)
            assert answer.content == (image.manifest if method == "GET" else b"")


@case("pull: a manifest that is not there is 404 MANIFEST_UNKNOWN; HEAD has no body")
async def _(http: httpx.AsyncClient) -> None:
    refused(await http.get(f"{BASE}/manifests/nothing"), 404, "MANIFEST_UNKNOWN")
    refused(await http.get(f"{BASE}/manifests/{ABSENT}"), 404, "MANIFEST_UNKNOWN")
    answer = await http.head(f"{BASE}/manifests/nothing")
    assert (answer.status_code, answer.content) == (404, b"")


@case("pull: a blob, whole; HEAD says its length")
async def _(http: httpx.AsyncClient) -> None:
    data = bytes(range(256)) * 5000
    digest = await push_blob(http, data)
    answer = await http.get(f"{BASE}/blobs/{digest}")
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["docker-content-digest"] == digest
    answer = await http.head(f"{BASE}/blobs/{digest}")
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(data)))


@case("pull: an empty blob")
async def _(http: httpx.AsyncClient) -> None:
    digest = await push_blob(http, b"")
    answer = await http.get(f"{BASE}/blobs/{digest}")
    assert (answer.status_code, answer.content) == (200, b"")


@case("pull: a blob that is not there is 404 BLOB_UNKNOWN")
async def _(http: httpx.AsyncClient) -> None:
    await push_blob(http, b"something")
    refused(await http.get(f"{BASE}/blobs/{ABSENT}"), 404, "BLOB_UNKNOWN")
    assert (await http.head(f"{BASE}/blobs/{ABSENT}")).status_code == 404


@case("pull: parts of a blob")
async def _(http: httpx.AsyncClient) -> None:
    digest = await push_blob(http, b"0123456789")
    for wanted, status, content, shown in (
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("bytes=4-2", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ):
        answer = await http.get(f"{BASE}/blobs/{digest}", headers={"Range": wanted})
        assert (answer.status_code, answer.content) == (status, content), wanted
        assert answer.headers.get("content-range") == shown, wanted
    answer = await http.get(f"{BASE}/blobs/{digest}", headers={"Range": "bytes=10-"})
    refused(answer, 416, "RANGE_INVALID")
    assert answer.headers["content-range"] == "bytes */10"


@case("pull: what is cached is not sent again")
async def _(http: httpx.AsyncClient) -> None:
    digest = await push_blob(http, b"cached")
    tag = (await http.get(f"{BASE}/blobs/{digest}")).headers["etag"]
    answer = await http.get(f"{BASE}/blobs/{digest}", headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content) == (304, b"")


@case("pull: a digest of another algorithm, or none, is refused in words")
async def _(http: httpx.AsyncClient) -> None:
    for digest in (f"sha512:{'a' * 128}", "sha256:short", f"sha256:{'A' * 64}", "md5:" + "a" * 32):
        answer = await http.get(f"{BASE}/blobs/{digest}")
        refused(answer, 400, "DIGEST_INVALID")
        assert "only sha256" in answer.json()["errors"][0]["message"]
        refused(await http.get(f"{BASE}/manifests/{digest}"), 400, "DIGEST_INVALID")
        refused(await http.get(f"{BASE}/referrers/{digest}"), 400, "DIGEST_INVALID")


@case("pull: names that can be none are 400 NAME_INVALID, those of nobody 404")
async def _(http: httpx.AsyncClient) -> None:
    for name in ("UPPER", "a..b", "-a", "a/../b", ".."):
        refused(await http.get(f"/v2/{name.replace('..', '%2e%2e')}/tags/list"), 400, "NAME_INVALID")
    for name in ("nobodys", f"{APP}/inner", FOREIGN_APP):
        refused(await http.get(f"/v2/{name}/tags/list"), 404, "NAME_UNKNOWN")


# Push


@case("push: POST, then PUT with the whole blob")
async def _(http: httpx.AsyncClient) -> None:
    data = b"monolithic" * 1000
    answer = await http.put(await begun(http), params={"digest": sha(data)}, content=data)
    assert answer.status_code == 201
    assert answer.headers["docker-content-digest"] == sha(data)
    assert (await http.get(answer.headers["location"])).content == data


@case("push: one POST with the whole blob")
async def _(http: httpx.AsyncClient) -> None:
    data = b"in one"
    answer = await http.post(f"{BASE}/blobs/uploads/", params={"digest": sha(data)}, content=data)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{BASE}/blobs/{sha(data)}"


@case("push: in chunks, in order; the status says how far it came; the last chunk may come with the PUT")
async def _(http: httpx.AsyncClient) -> None:
    chunks = [b"a" * 700_000, b"b" * 1_300_000, b"c" * 10]
    where, sent = await begun(http), 0
    for chunk in chunks[:2]:
        headers = {"Content-Range": f"{sent}-{sent + len(chunk) - 1}", "Content-Type": "application/octet-stream"}
        answer = await http.patch(where, content=chunk, headers=headers)
        sent += len(chunk)
        assert answer.status_code == 202, answer.text
        assert answer.headers["range"] == f"0-{sent - 1}"
        where = answer.headers["location"]
        status = await http.get(where)
        assert (status.status_code, status.headers["range"]) == (204, f"0-{sent - 1}")
        assert status.headers["location"]
    whole = b"".join(chunks)
    headers = {"Content-Range": f"{sent}-{len(whole) - 1}"}
    answer = await http.put(where, params={"digest": sha(whole)}, content=chunks[2], headers=headers)
    assert answer.status_code == 201, answer.text
    assert (await http.get(f"{BASE}/blobs/{sha(whole)}")).content == whole
    refused(await http.get(where), 404, "BLOB_UPLOAD_UNKNOWN")


@case("push: chunks as a stream of unknown length, as docker sends them, and an empty PUT")
async def _(http: httpx.AsyncClient) -> None:
    data = b"streamed" * 400_000

    async def pieces():  # type: ignore[no-untyped-def]
        for start in range(0, len(data), 123_457):
            yield data[start : start + 123_457]

    answer = await http.patch(await begun(http), content=pieces())
    assert (answer.status_code, answer.headers["range"]) == (202, f"0-{len(data) - 1}")
    answer = await http.put(answer.headers["location"], params={"digest": sha(data)})
    assert answer.status_code == 201
    assert (await http.get(f"{BASE}/blobs/{sha(data)}")).content == data


@case("push: a chunk out of order is 416 and says how far it came; nothing of it is kept")
async def _(http: httpx.AsyncClient) -> None:
    where = await begun(http)
    answer = await http.patch(where, content=b"567", headers={"Content-Range": "5-7"})
    refused(answer, 416, "BLOB_UPLOAD_INVALID")
    assert (await http.patch(where, content=b"01234", headers={"Content-Range": "0-4"})).status_code == 202
    for first in (0, 4, 6):
        headers = {"Content-Range": f"{first}-{first + 2}"}
        answer = await http.patch(where, content=b"xyz", headers=headers)
        refused(answer, 416, "BLOB_UPLOAD_INVALID")
        assert (answer.headers["range"], answer.headers["location"]) == ("0-4", where)
        refused(
            await http.put(where, params={"digest": ABSENT}, content=b"xyz", headers=headers),
            416,
            "BLOB_UPLOAD_INVALID",
        )
    answer = await http.put(where, params={"digest": sha(b"0123456")}, content=b"56", headers={"Content-Range": "5-6"})
    assert answer.status_code == 201


@case("push: a chunk of another length than it says is 400, and can be sent again")
async def _(http: httpx.AsyncClient) -> None:
    where = await begun(http)
    assert (await http.patch(where, content=b"01", headers={"Content-Range": "0-1"})).status_code == 202
    refused(await http.patch(where, content=b"2345", headers={"Content-Range": "2-3"}), 400, "SIZE_INVALID")
    refused(await http.patch(where, content=b"2", headers={"Content-Range": "nonsense"}), 400, "SIZE_INVALID")
    assert (await http.get(where)).headers["range"] == "0-1"
    answer = await http.patch(where, content=b"23", headers={"Content-Range": "2-3"})
    assert answer.headers["range"] == "0-3"
    assert (await http.put(where, params={"digest": sha(b"0123")})).status_code == 201


@case("push: a blob that is not what its digest says is 400 DIGEST_INVALID, and is not there")
async def _(http: httpx.AsyncClient) -> None:
    refused(await http.put(await begun(http), params={"digest": ABSENT}, content=b"other"), 400, "DIGEST_INVALID")
    refused(await http.post(f"{BASE}/blobs/uploads/", params={"digest": ABSENT}, content=b"x"), 400, "DIGEST_INVALID")
    refused(await http.get(f"{BASE}/blobs/{ABSENT}"), 404, "BLOB_UNKNOWN")


@case("push: an end without a digest, or with one of another algorithm, is 400, and the upload goes on")
async def _(http: httpx.AsyncClient) -> None:
    where = await begun(http)
    refused(await http.put(where, content=b"x"), 400, "DIGEST_INVALID")
    refused(await http.put(where, params={"digest": f"sha512:{'a' * 128}"}, content=b"x"), 400, "DIGEST_INVALID")
    assert (await http.put(where, params={"digest": sha(b"x")}, content=b"x")).status_code == 201


@case("push: an upload can be cancelled")
async def _(http: httpx.AsyncClient) -> None:
    where = await begun(http)
    assert (await http.patch(where, content=b"half")).status_code == 202
    assert (await http.delete(where)).status_code == 204
    for answer in (
        await http.get(where),
        await http.patch(where, content=b"x"),
        await http.put(where, params={"digest": ABSENT}),
        await http.delete(where),
    ):
        refused(answer, 404, "BLOB_UPLOAD_UNKNOWN")


@case("push: uploads that were never begun are 404")
async def _(http: httpx.AsyncClient) -> None:
    await begun(http)
    for id in ("0b0c0d0e-0000-4000-8000-000000000000", "..", "x"):
        refused(
            await http.patch(f"{BASE}/blobs/uploads/{id.replace('.', '%2e')}", content=b"x"), 404, "BLOB_UPLOAD_UNKNOWN"
        )


@case("push: a blob is mounted from another repository, without sending it")
async def _(http: httpx.AsyncClient) -> None:
    digest = await push_blob(http, b"shared", app=OTHER_APP)
    answer = await http.post(f"{BASE}/blobs/uploads/", params={"mount": digest, "from": OTHER_APP})
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{BASE}/blobs/{digest}"
    assert (await http.get(f"{BASE}/blobs/{digest}")).content == b"shared"


@case("push: a mount that cannot be done becomes an upload")
async def _(http: httpx.AsyncClient) -> None:
    digest = await push_blob(http, b"here", app=OTHER_APP)
    for wanted in (
        {"mount": ABSENT, "from": OTHER_APP},
        {"mount": digest},
        {"mount": digest, "from": FOREIGN_APP},
        {"mount": digest, "from": "nobodys"},
        {"mount": digest, "from": "../x"},
    ):
        answer = await http.post(f"{BASE}/blobs/uploads/", params=wanted)
        assert answer.status_code == 202, wanted
        assert answer.headers["location"].startswith(f"{BASE}/blobs/uploads/")


@case("push: a manifest by tag, and by digest; pushing a tag again moves it")
async def _(http: httpx.AsyncClient) -> None:
    first, second = Artifact(), Artifact(layers=(b"another",))
    await push(http, first, "latest")
    await push(http, second, second.digest)
    assert (await http.head(f"{BASE}/manifests/latest")).headers["docker-content-digest"] == first.digest
    answer = await push_manifest(http, second.manifest, "latest")
    assert answer.headers["location"] == f"{BASE}/manifests/{second.digest}"
    assert (await http.head(f"{BASE}/manifests/latest")).headers["docker-content-digest"] == second.digest
    assert (await http.head(f"{BASE}/manifests/{first.digest}")).status_code == 200


@case("push: a manifest that is not what its digest says is 400")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    await push(http, image, "v1")
    refused(await push_manifest(http, image.manifest, ABSENT), 400, "DIGEST_INVALID")


@case("push: a manifest whose blobs are not there is MANIFEST_BLOB_UNKNOWN, an index likewise")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    await push_blob(http, image.config)
    refused(await push_manifest(http, image.manifest, "v1"), 400, "MANIFEST_BLOB_UNKNOWN")
    refused(await push_manifest(http, index_of(image.manifest), "v1", kind=OCI_INDEX), 400, "MANIFEST_BLOB_UNKNOWN")


@case("push: what another repository has counts as absent")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    await push(http, image, "v1", app=OTHER_APP)
    await push_blob(http, image.config)
    refused(await push_manifest(http, image.manifest, "v1"), 400, "MANIFEST_BLOB_UNKNOWN")


@case("push: layers that are to be had elsewhere need not be here")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact(layers=())
    await push_blob(http, image.config)
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    layer = {"mediaType": kind, "digest": ABSENT, "size": 4, "urls": ["https://example.com/layer"]}
    image.more = {"layers": [layer]}
    assert (await push_manifest(http, image.manifest, "v1")).status_code == 201


@case("push: Docker's manifests (schema 2) keep their type")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact(more={"mediaType": DOCKER_MANIFEST})
    image.more["config"] = {"mediaType": DOCKER_CONFIG, "digest": sha(image.config), "size": len(image.config)}
    for data in (image.config, *image.layers):
        await push_blob(http, data)
    assert (await push_manifest(http, image.manifest, "v1", kind=DOCKER_MANIFEST)).status_code == 201
    answer = await http.get(f"{BASE}/manifests/v1", headers={"Accept": OCI_MANIFEST})
    assert (answer.headers["content-type"], answer.content) == (DOCKER_MANIFEST, image.manifest)


@case("push: indexes, and indexes of indexes")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    await push(http, image, image.digest)
    inner = index_of(image.manifest)
    outer = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [{"mediaType": OCI_INDEX, "digest": sha(inner), "size": len(inner)}],
        }
    ).encode()
    assert (await push_manifest(http, inner, "inner", kind=OCI_INDEX)).status_code == 201
    assert (await push_manifest(http, outer, "outer", kind=OCI_INDEX)).status_code == 201
    assert (await http.get(f"{BASE}/manifests/outer")).headers["content-type"] == OCI_INDEX


@case("push: artifacts that are no images, with an empty config")
async def _(http: httpx.AsyncClient) -> None:
    kind = "application/vnd.caddisfly.context.v1"
    artifact = Artifact(layers=(b"a pack",), more={"artifactType": kind})
    empty = "application/vnd.oci.empty.v1+json"
    artifact.more["config"] = {"mediaType": empty, "digest": sha(b"{}"), "size": 2}
    artifact.more["layers"] = [{"mediaType": "application/zstd", "digest": sha(b"a pack"), "size": 6}]
    await push(http, artifact, "caddis-context")
    assert (await http.get(f"{BASE}/manifests/caddis-context")).json()["artifactType"] == kind


@case("push: manifests that make no sense are MANIFEST_INVALID")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    await push(http, image, "good")
    good = json.loads(image.manifest)
    for wrong in (
        b"",
        b"no JSON",
        b"[]",
        b"{" * 2000,
        json.dumps({**good, "schemaVersion": 1}).encode(),
        json.dumps({**good, "mediaType": "application/vnd.docker.distribution.manifest.v1+json"}).encode(),
        json.dumps({**good, "mediaType": DOCKER_MANIFEST}).encode(),
        json.dumps({**good, "config": None}).encode(),
        json.dumps({**good, "layers": [{"digest": "sha512:" + "a" * 128, "size": 1}]}).encode(),
        json.dumps({**good, "layers": [{"digest": sha(b"layer one"), "size": -1}]}).encode(),
        json.dumps({**good, "layers": [{"digest": sha(b"layer one"), "size": 1}] * 5000}).encode(),
        json.dumps({**good, "subject": {"digest": "x", "size": 1}}).encode(),
    ):
        refused(await push_manifest(http, wrong, "bad"), 400, "MANIFEST_INVALID")
    refused(await http.get(f"{BASE}/manifests/bad"), 404, "MANIFEST_UNKNOWN")


@case("push: a manifest of more than 4 MiB is refused")
async def _(http: httpx.AsyncClient) -> None:
    refused(await push_manifest(http, b" " * ((4 << 20) + 1), "big"), 413, "SIZE_INVALID")


@case("push: tags that can be none are refused")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    await push(http, image, "v1")
    for tag in (".hidden", "-x", "a" * 129, "a b"):
        refused(await push_manifest(http, image.manifest, tag), 400, "TAG_INVALID")
    assert (await push_manifest(http, image.manifest, "a" * 128)).status_code == 201


# Content discovery


@case("discovery: tags in order, in pages, with a Link to the next")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    names = ["Z", "a", "b1", "b10", "b2", "latest"]
    for name in reversed(names):
        await push(http, image, name)
    answer = await http.get(f"{BASE}/tags/list")
    assert answer.json() == {"name": APP, "tags": names}
    assert "link" not in answer.headers
    found, path = [], f"{BASE}/tags/list?n=4"
    answer = await http.get(path)
    assert answer.json()["tags"] == names[:4]
    while True:
        found += answer.json()["tags"]
        if "link" not in answer.headers:
            break
        link = answer.headers["link"]
        assert link.endswith('; rel="next"')
        answer = await http.get(link[1 : link.index(">")])
    assert found == names
    assert (await http.get(f"{BASE}/tags/list?last=b10")).json()["tags"] == ["b2", "latest"]
    assert (await http.get(f"{BASE}/tags/list?n=0")).json()["tags"] == []
    assert (await http.get(f"{BASE}/tags/list?n=6")).headers.get("link") is None
    refused(await http.get(f"{BASE}/tags/list?n=many"), 400, "PAGINATION_NUMBER_INVALID")


@case("discovery: the catalog has what the token may see and what something was pushed to")
async def _(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v2/_catalog")).json() == {"repositories": []}
    await push(http, Artifact(), "v1", app=OTHER_APP)
    assert (await http.get("/v2/_catalog")).json() == {"repositories": [OTHER_APP]}
    await push(http, Artifact(), "v1")
    answer = await http.get("/v2/_catalog?n=1")
    assert answer.json() == {"repositories": [APP]}
    link = answer.headers["link"]
    assert (await http.get(link[1 : link.index(">")])).json() == {"repositories": [OTHER_APP]}


@case("discovery: what refers to a manifest, also before that is there; OCI-Subject; filtered by type")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    subject = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": len(image.manifest)}
    answer = await http.get(f"{BASE}/referrers/{image.digest}")
    assert answer.headers["content-type"] == OCI_INDEX
    assert answer.json()["manifests"] == []
    signature = Artifact(
        layers=(b"signature",), more={"subject": subject, "artifactType": "text/sig", "annotations": {"by": "me"}}
    )
    bill = Artifact(layers=(b"bill",), more={"subject": subject})
    for one in (signature, bill):
        for data in (one.config, *one.layers):
            await push_blob(http, data)
        answer = await push_manifest(http, one.manifest, one.digest)
        assert (answer.status_code, answer.headers["oci-subject"]) == (201, image.digest)
    await push(http, image, "v1")
    answer = await http.get(f"{BASE}/referrers/{image.digest}")
    found = {entry["digest"]: entry for entry in answer.json()["manifests"]}
    assert found.keys() == {signature.digest, bill.digest}
    assert found[signature.digest] == {
        "mediaType": OCI_MANIFEST,
        "digest": signature.digest,
        "size": len(signature.manifest),
        "artifactType": "text/sig",
        "annotations": {"by": "me"},
    }
    assert found[bill.digest]["artifactType"] == "application/vnd.oci.image.config.v1+json"
    assert "oci-filters-applied" not in answer.headers
    answer = await http.get(f"{BASE}/referrers/{image.digest}", params={"artifactType": "text/sig"})
    assert answer.headers["oci-filters-applied"] == "artifactType"
    assert [entry["digest"] for entry in answer.json()["manifests"]] == [signature.digest]
    answer = await http.get(f"{BASE}/referrers/{image.digest}", params={"n": "1"})
    assert len(answer.json()["manifests"]) == 1
    assert "link" in answer.headers
    assert (await http.delete(f"{BASE}/manifests/{bill.digest}")).status_code == 202
    answer = await http.get(f"{BASE}/referrers/{image.digest}")
    assert [entry["digest"] for entry in answer.json()["manifests"]] == [signature.digest]


# Content management


@case("management: a tag is deleted, its manifest stays")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    await push(http, image, "v1")
    await push(http, image, "v2")
    assert (await http.delete(f"{BASE}/manifests/v1")).status_code == 202
    refused(await http.get(f"{BASE}/manifests/v1"), 404, "MANIFEST_UNKNOWN")
    refused(await http.delete(f"{BASE}/manifests/v1"), 404, "MANIFEST_UNKNOWN")
    assert (await http.get(f"{BASE}/tags/list")).json()["tags"] == ["v2"]
    assert (await http.get(f"{BASE}/manifests/{image.digest}")).status_code == 200


@case("management: a manifest is deleted with its tags, its blobs stay")
async def _(http: httpx.AsyncClient) -> None:
    image, other = Artifact(), Artifact(layers=(b"other",))
    await push(http, image, "v1")
    await push(http, image, "v2")
    await push(http, other, "v3")
    assert (await http.delete(f"{BASE}/manifests/{image.digest}")).status_code == 202
    for target in ("v1", "v2", image.digest):
        refused(await http.get(f"{BASE}/manifests/{target}"), 404, "MANIFEST_UNKNOWN")
    refused(await http.delete(f"{BASE}/manifests/{image.digest}"), 404, "MANIFEST_UNKNOWN")
    assert (await http.get(f"{BASE}/tags/list")).json()["tags"] == ["v3"]
    assert (await http.head(f"{BASE}/blobs/{sha(image.layers[0])}")).status_code == 200


@case("management: a blob is deleted from one repository, and another keeps it")
async def _(http: httpx.AsyncClient) -> None:
    digest = await push_blob(http, b"mine")
    await push_blob(http, b"mine", app=OTHER_APP)
    assert (await http.delete(f"{BASE}/blobs/{digest}")).status_code == 202
    refused(await http.get(f"{BASE}/blobs/{digest}"), 404, "BLOB_UNKNOWN")
    refused(await http.delete(f"{BASE}/blobs/{digest}"), 404, "BLOB_UNKNOWN")
    assert (await http.get(f"/v2/{OTHER_APP}/blobs/{digest}")).content == b"mine"


@case("management: what was deleted can be pushed again")
async def _(http: httpx.AsyncClient) -> None:
    image = Artifact()
    await push(http, image, "v1")
    await http.delete(f"{BASE}/manifests/{image.digest}")
    await http.delete(f"{BASE}/blobs/{sha(image.config)}")
    assert await push(http, image, "v1") == image.digest
    assert (await http.get(f"{BASE}/manifests/v1")).content == image.manifest


@pytest.mark.parametrize("name", CASES)
async def test_case(name: str, served: Served) -> None:
    await CASES[name](served.http)
