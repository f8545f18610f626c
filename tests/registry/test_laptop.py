"""What a laptop sends arrives: its push client against the registry itself."""

from __future__ import annotations

import asyncio
import io
import random
from pathlib import Path

import pytest

from caddisfly.launch.build import context, ignore
from caddisfly.launch.build.delivery import deliver
from caddisfly.launch.build.push import Registry
from caddisfly.model.context import Context, Descriptor
from caddisfly.model.errors import NotFound, Unauthenticated
from tests.registry.conftest import APP, FOREIGN_APP, TOKEN, Served


def source(root: Path) -> context.Folder:
    chance = random.Random(11)
    (root / "big.bin").write_bytes(chance.randbytes(5_000_000))
    for number in range(100):
        (root / f"m{number}.py").write_bytes(chance.randbytes(15_000))
    return context.walk(root, ignore.rules([]))


async def test_a_folder_and_after_a_change_one_pack(served: Served, tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()

    def send() -> tuple[int, int, str]:
        folder = context.walk(root, ignore.rules([])) if any(root.iterdir()) else source(root)
        with Registry(f"http://{served.host}", APP, password=TOKEN, chunk_bytes=1_000_000) as registry:
            sent = deliver(folder, b"FROM x\n", registry)
            return sent.sent, sent.packs, sent.digest

    first, packs, digest = await asyncio.to_thread(send)
    assert first == packs >= 3
    answer = await served.http.get(f"/v2/{APP}/manifests/caddis-context")
    assert answer.headers["docker-content-digest"] == digest
    whole = Context.from_bytes(answer.content)
    assert (await served.http.get(f"/v2/{APP}/blobs/{whole.dockerfile.digest}")).content == b"FROM x\n"
    assert await asyncio.to_thread(send) == (0, packs, digest)
    (root / "m7.py").write_text("changed")
    assert (await asyncio.to_thread(send))[0] == 1


async def test_who_may_not_is_told_so(served: Served) -> None:
    blob = Descriptor.of("x", b"content")

    def send(app: str, token: str) -> None:
        with Registry(f"http://{served.host}", app, password=token) as registry:
            registry.push(blob, io.BytesIO(b"content"))

    with pytest.raises(Unauthenticated, match="does not know you"):
        await asyncio.to_thread(send, APP, "nobody")
    with pytest.raises(NotFound, match="has no repository theirs"):
        await asyncio.to_thread(send, FOREIGN_APP, TOKEN)


async def test_an_upload_goes_on_where_a_registry_says_it_is(served: Served) -> None:
    content = random.Random(1).randbytes(3_000_000)
    blob = Descriptor.of("x", content)

    class Line(Registry):
        """One on which the connection breaks once, in the middle of a chunk."""

        broken = False

        def _send(self, method, url, *, content=b"", headers=None):  # type: ignore[no-untyped-def]
            if method == "PATCH" and not self.broken:
                self.broken = True
                half = content[: len(content) // 2]
                first = int(headers["content-range"].partition("-")[0])
                headers = {**headers, "content-range": f"{first}-{first + len(half) - 1}"}
                super()._send(method, url, content=half, headers=headers)
                method, url, content, headers = "PATCH", url, b"x", {"content-range": "9-9"}
            return super()._send(method, url, content=content, headers=headers)

    def send() -> list[int]:
        arrived: list[int] = []
        with Line(f"http://{served.host}", APP, password=TOKEN, chunk_bytes=1_000_000, pause_s=0.001) as registry:
            assert registry.push(blob, io.BytesIO(content), arrived=arrived.append)
        return arrived

    arrived = await asyncio.to_thread(send)
    assert arrived[0] == 500_000
    assert sum(arrived) == len(content)
    assert (await served.http.get(f"/v2/{APP}/blobs/{blob.digest}")).content == content
