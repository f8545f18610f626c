"""Pushing through everything that goes wrong on the way."""

from __future__ import annotations

import io
import random
import threading
from pathlib import Path

import pytest

from caddisfly.launch.build import context, ignore
from caddisfly.launch.build.delivery import Delivery, deliver
from caddisfly.launch.build.push import Registry
from caddisfly.model.context import MANIFEST, Context, Descriptor
from caddisfly.model.errors import Aborted, InvalidArgument, NotFound, Unauthenticated, Unavailable
from tests.conftest import free_port
from tests.launch.registry import PushRegistry, push_registry

__all__ = ["push_registry"]

SMALL = b"a small blob"
LARGE = random.Random(3).randbytes(2_500_000)


def registry_at(url: str, repository: str = "hello", password: str = "") -> Registry:
    return Registry(url, repository, password=password, chunk_bytes=1_000_000, pause_s=0.001)


def pushed(server: PushRegistry, content: bytes) -> tuple[bool, list[int]]:
    """Whether it was sent, and the pieces that arrived."""
    pieces: list[int] = []
    blob = Descriptor.of("application/octet-stream", content)
    with registry_at(server.url) as registry:
        sent = registry.push(blob, io.BytesIO(content), arrived=pieces.append)
    assert server.blobs[blob.digest] == content
    return sent, pieces


@pytest.mark.parametrize("content", [SMALL, LARGE, b""])
def test_a_blob_is_sent_once(push_registry: PushRegistry, content: bytes) -> None:
    sent, pieces = pushed(push_registry, content)
    assert sent
    assert sum(pieces) == len(content)
    before = len(push_registry.requests)
    assert pushed(push_registry, content) == (False, [])
    assert [method for method, _ in push_registry.requests[before:]] == ["HEAD"]


def test_a_small_blob_costs_two_requests_and_a_large_one_goes_in_chunks(push_registry: PushRegistry) -> None:
    pushed(push_registry, SMALL)
    assert [method for method, _ in push_registry.requests] == ["HEAD", "POST"]
    pushed(push_registry, LARGE)
    assert [method for method, _ in push_registry.requests[2:]] == ["HEAD", "POST", "PATCH", "PATCH", "PUT"]


def test_a_registry_that_wants_a_small_blob_apart(push_registry: PushRegistry) -> None:
    push_registry.whole = False
    assert pushed(push_registry, SMALL) == (True, [len(SMALL)])


@pytest.mark.parametrize(
    "failures",
    [
        [("HEAD", "503")],
        [("POST", "503"), ("POST", "429")],
        [("PATCH", "drop")],
        [("PATCH", "lose")],
        [("PATCH", "502"), ("GET", "502")],
        [("PATCH", "forget")],
        [("PATCH", "spoil")],
        [("PUT", "drop")],
        [("PUT", "lose")],
        [("PUT", "500")],
        [("PUT", "forget")],
    ],
    ids=lambda failures: "+".join("-".join(failure) for failure in failures),
)
def test_a_large_blob_gets_through(push_registry: PushRegistry, failures: list[tuple[str, str]]) -> None:
    push_registry.failures.extend(failures)
    assert pushed(push_registry, LARGE)[0]
    assert not push_registry.failures


@pytest.mark.parametrize("failure", ["drop", "lose", "503"])
def test_a_small_blob_gets_through(push_registry: PushRegistry, failure: str) -> None:
    push_registry.failures.append(("POST", failure))
    assert pushed(push_registry, SMALL)[0]


def test_what_arrived_before_the_line_broke_is_not_sent_again(push_registry: PushRegistry) -> None:
    push_registry.failures.append(("PATCH", "drop"))
    sent, pieces = pushed(push_registry, LARGE)
    assert sent
    assert sum(pieces) == len(LARGE)
    assert pieces[0] == 500_000
    assert push_registry.count("GET") == 1


def test_a_bad_line_is_no_reason_to_give_up_while_something_arrives(push_registry: PushRegistry) -> None:
    push_registry.failures.extend([("PATCH", "drop")] * 9)
    assert pushed(push_registry, LARGE)[0]


def test_a_registry_that_never_takes_it(push_registry: PushRegistry) -> None:
    push_registry.failures.extend([("POST", "503")] * 5)
    with registry_at(push_registry.url) as registry, pytest.raises(Unavailable) as caught:
        registry.push(Descriptor.of("x", SMALL), io.BytesIO(SMALL))
    assert caught.value.why == "TOOMANYREQUESTS slow down"
    assert push_registry.count("POST") == 5


def test_nobody_there() -> None:
    with registry_at(f"http://127.0.0.1:{free_port()}") as registry, pytest.raises(Unavailable, match="refused"):
        registry.has(Descriptor.of("x", SMALL).digest)


def test_who_may_not(push_registry: PushRegistry) -> None:
    push_registry.password = "secret"
    blob = Descriptor.of("x", SMALL)
    with registry_at(push_registry.url) as registry, pytest.raises(Unauthenticated, match="does not know you"):
        registry.push(blob, io.BytesIO(SMALL))
    with registry_at(push_registry.url, password="secret") as registry:
        assert registry.push(blob, io.BytesIO(SMALL))
    push_registry.failures.append(("HEAD", "403"))
    with registry_at(push_registry.url, password="secret") as registry, pytest.raises(Exception, match="refuses"):
        registry.has(blob.digest)
    with registry_at(push_registry.url, "other", password="secret") as registry, pytest.raises(NotFound) as caught:
        registry.push(blob, io.BytesIO(SMALL))
    assert caught.value.why == "NAME_UNKNOWN no such repository"


def test_an_answer_that_is_final_is_not_asked_for_twice(push_registry: PushRegistry) -> None:
    push_registry.failures.append(("POST", "422"))
    with registry_at(push_registry.url) as registry, pytest.raises(InvalidArgument, match="slow down"):
        registry.push(Descriptor.of("x", SMALL), io.BytesIO(SMALL))
    assert push_registry.count("POST") == 1


def folder(root: Path) -> context.Folder:
    chance = random.Random(5)
    for number in range(200):
        (root / f"m{number}.bin").write_bytes(chance.randbytes(20_000))
    return context.walk(root, ignore.rules([]))


def test_a_folder_is_delivered_and_a_changed_line_sends_one_pack(push_registry: PushRegistry, tmp_path: Path) -> None:
    heard: list[Delivery] = []
    with registry_at(push_registry.url) as registry:
        first = deliver(folder(tmp_path), b"FROM x\n", registry, told=heard.append)
        assert first.sent == first.packs == first.done > 3
        assert heard[-1].sent_bytes == first.sent_bytes > 4_000_000
        whole = Context.from_bytes(push_registry.manifests[first.digest])
        assert push_registry.manifests["caddis-context"] == push_registry.manifests[first.digest]
        assert push_registry.blobs[whole.dockerfile.digest] == b"FROM x\n"
        again = deliver(context.walk(tmp_path, ignore.rules([])), b"FROM x\n", registry)
        assert (again.sent, again.sent_bytes, again.digest) == (0, 0, first.digest)
        (tmp_path / "m7.bin").write_bytes(b"another line")
        changed = deliver(context.walk(tmp_path, ignore.rules([])), b"FROM x\n", registry)
        assert changed.sent == 1
        assert changed.digest != first.digest
        assert changed.sent_bytes < 1_100_000


def test_a_delivery_ends_with_its_first_error(push_registry: PushRegistry, tmp_path: Path) -> None:
    found = folder(tmp_path)
    (tmp_path / "m7.bin").write_bytes(b"changed")
    with registry_at(push_registry.url) as registry, pytest.raises(Aborted, match=r"m7\.bin"):
        deliver(found, b"FROM x\n", registry)
    assert push_registry.manifests == {}


def test_a_stopped_registry_does_nothing_more(push_registry: PushRegistry) -> None:
    push_registry.failures.extend([("POST", "503")] * 5)
    with Registry(push_registry.url, "hello", pause_s=60) as registry:
        stopper = threading.Timer(0.05, registry.stop)
        stopper.start()
        with pytest.raises(Aborted, match="stopped"):
            registry.push(Descriptor.of("x", SMALL), io.BytesIO(SMALL))
        stopper.join()


def test_a_manifest_needs_its_parts(push_registry: PushRegistry) -> None:
    part = Descriptor.of("x", SMALL)
    content = Context(part, part, ()).to_bytes()
    with registry_at(push_registry.url) as registry, pytest.raises(NotFound, match="MANIFEST_BLOB_UNKNOWN"):
        registry.put_manifest(content, media_type=MANIFEST)
