"""Uploads over everything that can happen to them: kills, cuts, full disks, limits, and being forgotten."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from caddisfly.host.registry.settings import RegistrySettings
from tests.conftest import eventually, free_port
from tests.registry.conftest import APP, TOKEN, Artifact, MadeUpControl, Served, push, push_blob, serving, sha
from tests.small_disk import small_disk

BASE = f"/v2/{APP}"
DATA = random.Random(4).randbytes(6_000_000)


async def begun(http: httpx.AsyncClient) -> str:
    where: str = (await http.post(f"{BASE}/blobs/uploads/")).headers["location"]
    return where


async def arrived(http: httpx.AsyncClient, where: str) -> int:
    """How many bytes of an upload the registry has."""
    answer = await http.get(where)
    assert answer.status_code == 204, answer.text
    return int(answer.headers["range"].removeprefix("0-")) + 1


@contextmanager
def killable(store: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "tests.registry.process", str(store), str(port)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/healthz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_push_goes_on_after_the_registry_was_killed_in_its_middle(tmp_path: Path) -> None:
    port = free_port()
    half, dead = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield DATA[1_000_000:3_500_000]
        half.set()
        await dead.wait()
        while True:
            yield DATA

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", auth=("x", TOKEN), trust_env=False) as http:
        with killable(tmp_path, port) as process:
            await eventually(lambda: answers(http), timeout_s=20)
            done = await push_blob(http, b"finished before")
            where = await begun(http)
            assert (await http.patch(where, content=DATA[:1_000_000])).status_code == 202
            broken = asyncio.create_task(http.patch(where, content=pieces()))
            await half.wait()
            await eventually(lambda: _uploaded(tmp_path) > 1_000_000)
            process.send_signal(signal.SIGKILL)
            process.wait()
            dead.set()
            with pytest.raises(httpx.TransportError):
                await broken
        with killable(tmp_path, port):
            await eventually(lambda: answers(http), timeout_s=20)
            assert (await http.head(f"{BASE}/blobs/{done}")).status_code == 200
            size = await arrived(http, where)
            assert 1_000_000 < size <= 3_500_000
            rest = DATA[size:]
            span = {"Content-Range": f"{size}-{len(DATA) - 1}"}
            assert (await http.patch(where, content=rest, headers=span)).status_code == 202
            assert (await http.put(where, params={"digest": sha(DATA)})).status_code == 201
            assert (await http.get(f"{BASE}/blobs/{sha(DATA)}")).content == DATA
            assert _uploaded(tmp_path) == 0


def _uploaded(store: Path) -> int:
    """Bytes in files of uploads."""
    return sum(path.stat().st_size for path in store.glob("registry/repositories/*/*/uploads/*"))


@pytest.mark.parametrize("moment", range(6))
async def test_a_kill_at_any_moment_leaves_what_was_acknowledged_and_nothing_half(tmp_path: Path, moment: int) -> None:
    port = free_port()
    random_ = random.Random(moment)
    acknowledged: dict[str, Artifact] = {}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", auth=("x", TOKEN), trust_env=False) as http:

        async def pushing() -> None:
            for number in range(1000):
                image = Artifact(layers=(random_.randbytes(200_000), b"the same in all"))
                await push(http, image, f"v{number}")
                acknowledged[f"v{number}"] = image

        with killable(tmp_path, port) as process:
            await eventually(lambda: answers(http), timeout_s=20)
            task = asyncio.create_task(pushing())
            await eventually(lambda: len(acknowledged) > moment, every_s=0.003)
            process.kill()
            with pytest.raises(httpx.TransportError):
                await task
        with killable(tmp_path, port):
            await eventually(lambda: answers(http), timeout_s=20)
            tags = (await http.get(f"{BASE}/tags/list")).json()["tags"]
            assert set(tags) >= acknowledged.keys()
            for tag in tags:
                manifest = await http.get(f"{BASE}/manifests/{tag}")
                assert sha(manifest.content) == manifest.headers["docker-content-digest"]
                document = manifest.json()
                for entry in (document["config"], *document["layers"]):
                    blob = await http.get(f"{BASE}/blobs/{entry['digest']}")
                    assert sha(blob.content) == entry["digest"]
            await push(http, Artifact(layers=(b"afterwards",)), "after")
    assert not list(tmp_path.glob("registry/**/.*.tmp"))
    assert os.listdir(tmp_path / "registry" / "tmp") == []


async def test_what_came_before_a_connection_broke_stays(served: Served) -> None:
    where = await begun(served.http)

    async def cut() -> AsyncIterator[bytes]:
        yield DATA[:1_500_000]
        raise ConnectionError("the laptop is closed")

    with pytest.raises(ConnectionError):
        await served.http.patch(where, content=cut())
    await eventually(lambda: _uploaded(served.settings.store) == 1_500_000)
    size = await arrived(served.http, where)
    answer = await served.http.put(where, params={"digest": sha(DATA)}, content=DATA[size:])
    assert answer.status_code == 201


async def test_a_client_that_says_nothing_any_more_lets_go_of_its_upload(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caddisfly.host.registry.call.SILENCE_S", 0.2)
    where = await begun(served.http)
    silent = asyncio.Event()

    async def trailing_off() -> AsyncIterator[bytes]:
        yield b"once upon "
        await silent.wait()

    task = asyncio.create_task(served.http.patch(where, content=trailing_off()))
    await eventually(lambda: any(session.lock.locked() for session in served.registry.uploads._sessions.values()))
    answer = await served.http.patch(where, content=b"a time")
    assert (answer.status_code, answer.headers["range"]) == (202, "0-15")
    silent.set()
    assert (await task).status_code == 408


async def test_uploads_over_the_limits_are_refused_in_words(settings: RegistrySettings, control: MadeUpControl) -> None:
    limited = settings.model_copy(update={"max_blob_bytes": 1000, "max_uploads": 2})
    async with serving(limited, control) as served:
        http = served.http
        answer = await http.post(f"{BASE}/blobs/uploads/", params={"digest": sha(DATA)}, content=DATA)
        assert answer.status_code == 413
        assert "1000" in answer.json()["errors"][0]["message"]
        where = await begun(http)
        answer = await http.post(f"{BASE}/blobs/uploads/")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (429, "TOOMANYREQUESTS")
        assert (await http.delete(where)).status_code == 204
        assert (await http.post(f"{BASE}/blobs/uploads/")).status_code == 202


async def test_uploads_that_nobody_goes_on_with_are_forgotten(served: Served) -> None:
    old, fresh = await begun(served.http), await begun(served.http)
    await served.http.patch(old, content=b"once")
    path = next(served.settings.store.glob(f"registry/repositories/*/*/uploads/{old.rpartition('/')[2]}"))
    os.utime(path, (0, 0))
    assert (await served.registry.collection.collect()).uploads == 1
    assert (await served.http.get(old)).status_code == 404
    assert (await served.http.get(fresh)).status_code == 204


async def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path, control: MadeUpControl) -> None:
    with small_disk(tmp_path / "small", megabytes=48) as disk:
        settings = RegistrySettings(store=disk.path, port=free_port(), min_free_mb=0, access_cache_s=0)
        async with serving(settings, control) as served:
            http = served.http
            image = Artifact()
            await push(http, image, "v1")
            where = await begun(http)
            assert (await http.patch(where, content=DATA[:2_000_000])).status_code == 202
            disk.fill()
            filler = disk.path / "filler"
            os.truncate(filler, filler.stat().st_size - 1_500_000)

            async def unannounced() -> AsyncIterator[bytes]:
                for start in range(2_000_000, len(DATA), 65_536):
                    yield DATA[start : start + 65_536]

            answer = await http.patch(where, content=unannounced())
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (507, "NO_SPACE")
            assert "full" in answer.json()["errors"][0]["message"]
            assert (await http.get(f"{BASE}/manifests/v1")).content == image.manifest
            size = await arrived(http, where)
            assert size >= 2_000_000
            disk.free()
            answer = await http.put(where, params={"digest": sha(DATA)}, content=DATA[size:])
            assert answer.status_code == 201, answer.text
            assert (await http.get(f"{BASE}/blobs/{sha(DATA)}")).content == DATA


async def test_a_push_that_would_not_leave_room_is_refused_before_it_begins(
    settings: RegistrySettings, control: MadeUpControl
) -> None:
    async with serving(settings.model_copy(update={"min_free_mb": 1 << 30}), control) as served:
        where = await begun(served.http)
        answer = await served.http.patch(where, content=b"x")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (507, "NO_SPACE")


async def test_many_pushes_of_the_same_content_at_once(served: Served) -> None:
    image = Artifact(layers=(DATA[:1_000_000], DATA[1_000_000:3_000_000]))
    await asyncio.gather(*(push(served.http, image, f"v{number}") for number in range(12)))
    tags = (await served.http.get(f"{BASE}/tags/list")).json()["tags"]
    assert len(tags) == 12
    for layer in image.layers:
        assert (await served.http.get(f"{BASE}/blobs/{sha(layer)}")).content == layer
    assert _uploaded(served.settings.store) == 0


async def test_one_upload_is_written_by_one_request_at_a_time(served: Served) -> None:
    where = await begun(served.http)
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"first "
        await gate.wait()
        yield b"half, "

    first = asyncio.create_task(served.http.patch(where, content=slow()))
    await eventually(lambda: any(session.lock.locked() for session in served.registry.uploads._sessions.values()))
    second = asyncio.create_task(served.http.patch(where, content=b"second half"))
    gate.set()
    assert (await first).headers["range"] == "0-11"
    assert (await second).headers["range"] == "0-22"
    whole = b"first half, second half"
    assert (await served.http.put(where, params={"digest": sha(whole)})).status_code == 201
