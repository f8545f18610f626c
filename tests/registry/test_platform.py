"""The registry of a whole platform: pushed to, and Machines made of what is there."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from caddisfly.host.images.manifest import OCI_MANIFEST
from tests.conftest import eventually
from tests.faults.platform import APP, Platform, running


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running() as instance:
        yield instance


def push(platform: Platform, tag: str, *, app: str = APP, token: str = "") -> subprocess.CompletedProcess[str]:
    """The busybox image, as anybody would push it."""
    words = ["skopeo", "copy", "--dest-tls-verify=false", f"--dest-creds=x:{token or platform.token}"]
    target = f"docker://127.0.0.1:{platform.ports['registry']}/{app}:{tag}"
    command = [*words, f"oci:{platform.directory / 'layout'}", target]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def pushed(platform: Platform, tag: str, **more: str) -> None:
    done = await asyncio.to_thread(push, platform, tag, **more)
    assert done.returncode == 0, done.stderr


def config(image: str) -> dict[str, object]:
    return {"config": {"image": image, "init": {"exec": ["/bin/sleep", "1000"]}}}


async def test_a_machine_is_made_of_a_pushed_image_under_both_names(platform: Platform) -> None:
    await pushed(platform, "v1")
    async with platform.api() as api:
        digests = set()
        for registry in ("registry.localhost", "registry.fly.io"):
            reply = await api.http.post(f"/v1/apps/{APP}/machines", json=config(f"{registry}/{APP}:v1"))
            assert reply.status_code == 200, reply.text
            reference = reply.json()["image_ref"]
            assert (reference["registry"], reference["repository"], reference["tag"]) == (registry, APP, "v1")
            digests.add(reference["digest"])
            await api.state(reply.json()["id"], "started")
        assert len(digests) == 1
        # A start after the tag is gone: the Machine goes on with what it has.
        base = f"http://127.0.0.1:{platform.ports['registry']}"
        async with httpx.AsyncClient(base_url=base, auth=("x", platform.token), trust_env=False) as http:
            assert (await http.delete(f"/v2/{APP}/manifests/{digests.pop()}")).status_code == 202
        machine = reply.json()["id"]
        await api.stop(machine)
        assert (await api.http.post(f"/v1/apps/{APP}/machines/{machine}/start")).status_code == 200
        await api.state(machine, "started")
        await api.clear()


async def test_another_tenants_image_and_no_image_answer_alike(platform: Platform) -> None:
    await pushed(platform, "v1")
    token = await platform.token_of_another("rivals")
    async with platform.api() as api:
        headers = {"authorization": f"Bearer {token}"}
        made = await api.http.post("/v1/apps", json={"app_name": "rival", "org_slug": "rivals"}, headers=headers)
        assert made.status_code == 201, made.text
        await pushed(platform, "v1", app="rival", token=token)
        refused = await asyncio.to_thread(push, platform, "v1", token=token)
        assert "name unknown" in refused.stderr
        answers = []
        for app in (APP, "absent"):
            reply = await api.http.post(
                "/v1/apps/rival/machines", json=config(f"registry.fly.io/{app}:v1"), headers=headers
            )
            answers.append((reply.status_code, reply.json()["error"].replace(app, "it")))
        assert answers[0] == answers[1]
        assert answers[0][0] == 400
        assert "MANIFEST_UNKNOWN" in answers[0][1]
        mine = await api.http.post("/v1/apps/rival/machines", json=config("registry.fly.io/rival:v1"), headers=headers)
        assert mine.status_code == 200, mine.text
        path = f"/v1/apps/rival/machines/{mine.json()['id']}"
        for app in (APP, "absent"):
            reply = await api.http.post(path, json=config(f"registry.localhost/{app}:v1"), headers=headers)
            assert reply.status_code == 400
        assert (await api.http.delete("/v1/apps/rival", headers=headers)).status_code in (200, 202)


async def test_the_edge_leads_to_it_by_name(platform: Platform) -> None:
    base = f"http://127.0.0.1:{platform.ports['edge']}"
    headers = {"host": "registry.localhost"}
    data = bytes(1_000_000) * 20
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=60) as http:
        answer = await http.get("/v2/")
        assert (answer.status_code, answer.headers["www-authenticate"][:5]) == (401, "Basic")
        http.auth = ("x", platform.token)
        where = (await http.post(f"/v2/{APP}/blobs/uploads/")).headers["location"]
        assert (await http.patch(where, content=data)).headers["range"] == f"0-{len(data) - 1}"
        assert (await http.delete(where)).status_code == 204
    async with platform.api() as api:
        taken = await api.http.post("/v1/apps", json={"app_name": "registry", "org_slug": "personal"})
        assert taken.status_code == 422


async def test_it_comes_back_after_a_kill_and_is_there_without_the_bus(platform: Platform) -> None:
    await pushed(platform, "kept")
    base = f"http://127.0.0.1:{platform.ports['registry']}"
    async with httpx.AsyncClient(base_url=base, auth=("x", platform.token), trust_env=False) as http:
        before = platform.kill("registry")
        await platform.back("registry", instead_of=before)

        async def there() -> bool:
            answer = await http.get(f"/v2/{APP}/manifests/kept", headers={"accept": OCI_MANIFEST})
            return answer.status_code == 200

        await eventually(there, timeout_s=20, every_s=0.1)
        bus = platform.kill("bus")
        await platform.back("bus", instead_of=bus)
        await eventually(there, timeout_s=20, every_s=0.1)
